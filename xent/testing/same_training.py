"""The proof of a training of your own, with its own loop: `assert_same_training(train, reference)`."""

from collections.abc import Sequence

import torch

from xent.recording import BadInput, Recorder
from xent.recording.device import accelerator, seeded
from xent.recording.float64 import LookingOn
from xent.report.explanation import explanation
from xent.testing.trained import Dtype, Kept, Settings, Train, trained, where_it_begins, with_dtype
from xent.verdict.floor import bitwise_identical
from xent.verdict.judging import Judgement, Verdict, judge, together
from xent.verdict.matching import Pair, check_same_probes
from xent.verdict.where import Renames

SAME = (Verdict.IDENTICAL, Verdict.SAME, Verdict.COARSER)


def assert_same_training(  # noqa: PLR0913  each a keyword of its own, as a caller writes them
    train: Train,
    reference: Train,
    *,
    steps: int | None = 200,
    dtype: Dtype | tuple[Dtype, Dtype] = torch.float64,
    seeds: int | None = None,
    nudges: int | None = None,
    settings: Settings = None,
    where: bool = True,
    rename: Renames | None = None,
) -> None:
    """Assert that `train` and `reference` train the same, down to rounding.

    Both are functions `(recorder) -> None` that train and record it, as in xent.recording.Recorder; they need not call
    `finish`.

    >>> def train(recorder, attention=mine):
    ...     model = Model(attention)
    ...     recorder.nudge(model)
    ...     for _ in range(recorder.steps): ...
    >>> assert_same_training(train, partial(train, attention=theirs), steps=200)

    Both run inside `xent.recording.all_in_float64`, where the smallest mistake shows, whatever types they were written
    for. This proves that they are the same function. To compare their rounding, give another `dtype`.

    PyTorch's random number generators are set to `recorder.seed` before each training, so that both draw the same
    weights and batches from them. The reference is trained again for each nudge; a `Kept` one once for many changes.

    Args:
        steps: the number of steps of each training, `recorder.steps`; None if each ends by itself.
        dtype: another type than float64, or None, runs both as they are written. A function with a parameter `dtype`
            gets it, but for None. `(torch.float64, None)` judges both ways together: a training that rounds more
            coarsely than the reference then passes, unless it computes in a half type where the reference does not.
        seeds: how many; both are trained for each. Defaults to 1, or to 4 if outputs are not in float64.
        nudges: how many for each seed. Defaults to 4, or to 2 if outputs are not in float64.
        settings: of the recorders, such as {"precision": "bfloat16"} under autocast.
        where: whether to train again if they differ, in float64, to name the first tensor that does.
        rename: for that, module paths of `train`, or parts of them, and what they are in `reference`.

    Raises:
        BadInput: the trainings cannot be compared, a seed or a nudge has no effect, or a nudge too large a one, or an
            operation has no float64.
        AssertionError: they differ, or nothing was proved; the message says why, and what to try.
    """
    __tracebackhide__ = True  # for pytest, which shows the call instead
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
    if len(dtypes) != 1 and (len(set(dtypes)) != 2 or torch.float64 not in dtypes):
        raise BadInput(f"dtype={dtype}: expected one type, or torch.float64 and another type or None")
    try:
        failure = _failure(train, reference, steps, dtypes, seeds, nudges, settings, where, rename)
    except BadInput as refusal:
        raise refusal.with_traceback(None) from None  # what it says is all there is to see
    if failure:
        raise AssertionError(failure)


def _failure(  # noqa: PLR0913  as assert_same_training
    train: Train,
    reference: Train,
    steps: int | None,
    dtypes: Sequence[Dtype],
    seeds: int | None,
    nudges: int | None,
    settings: Settings,
    where: bool,
    rename: Renames | None,
) -> str:
    """Why two trainings are not the same; empty if they are."""
    judgements = together([judge_training(train, reference, steps, seeds, nudges, settings, one) for one in dtypes])
    for judgement in judgements:
        if judgement.verdict not in SAME:
            again = train, reference, judgement, settings, torch.float64, rename
            begins = where_it_begins(*again) if where else []
            return explanation(judgement, "more steps, or another learning rate", begins=begins)
    if Verdict.COARSER in [judgement.verdict for judgement in judgements]:
        as_written = next(one for one in dtypes if one != torch.float64)
        narrower = [_narrower_types(function, steps, settings, as_written) for function in (train, reference)]
        if half := half_types(*narrower):
            return computed_in(half)
    return ""


def judge_training(
    train: Train,
    reference: Train,
    steps: int | None,
    seeds: int | None = None,
    nudges: int | None = None,
    settings: Settings = None,
    dtype: Dtype = None,
) -> Judgement:
    """Judge a training against the reference, both functions `(recorder) -> None`.

    Args:
        train, reference, steps, seeds, nudges, settings, dtype: see `assert_same_training`.

    Raises:
        BadInput: the trainings cannot be compared.
    """
    if any(count is not None and count < 1 for count in (seeds, nudges)):
        raise BadInput(f"seeds={seeds}, nudges={nudges}: expected 1 or more of each")

    again = steps, settings, dtype
    first = trained(reference, "the reference", *again, seed=0)
    usual = seeds_and_nudges(first.first_outputs.dtype)
    numbers = range(1, 1 + (nudges or usual[1]))
    pairs: list[Pair] = []
    for seed in range(seeds or usual[0]):
        unnudged = trained(reference, "the reference", *again, seed) if seed else first
        if pairs and bitwise_identical(unnudged, first):
            raise BadInput(f"seeds 0 and {seed} train alike: draw from recorder.seed, or give seeds=1")
        nudged = [trained(reference, "the reference", *again, seed, nudge) for nudge in numbers]
        candidate = trained(train, "the training", *again, seed)
        check_same_probes(candidate, unnudged)
        pairs.append(Pair(candidate, unnudged, unnudged, nudged))
    (judgement,) = judge(pairs)
    return judgement


def seeds_and_nudges(dtype: torch.dtype) -> tuple[int, int]:
    """The default numbers of seeds and nudges, for outputs or logits of this dtype.

    With one seed, only what is half off shows in a half type: the limit is 2 decades over the root of the seeds.
    """
    return (1, 4) if dtype == torch.float64 else (4, 2)


def half_types(ours: set[torch.dtype], theirs: set[torch.dtype]) -> set[torch.dtype]:
    """The types narrower than float32 that are in one set alone."""
    return {dtype for dtype in ours - theirs if dtype.itemsize < 4}


def computed_in(types: set[torch.dtype]) -> str:
    """The message on the same function in another type."""
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
    return f"the same function, computed in {names}"


def _narrower_types(train: Train, steps: int | None, settings: Settings, dtype: Dtype) -> set[torch.dtype]:
    """The types narrower than what they are computed from, in a training as it is written."""
    recorder = Recorder(steps=steps, settings=settings)
    with LookingOn() as looking, seeded(recorder.seed, accelerator()):
        with_dtype(train.train if isinstance(train, Kept) else train, dtype)(recorder)
    return looking.narrower
