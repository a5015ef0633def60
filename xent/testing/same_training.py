"""The proof of a training of one's own, its own loop and all: `assert_same_training(train, reference)`."""

from collections.abc import Callable
from inspect import signature

import torch

from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.verdict.explanation import explanation
from xent.verdict.floor import bitwise_identical
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import Pair, check_same_probes

Train = Callable[..., None]  # (recorder) or (recorder, dtype)

SAME = (Verdict.IDENTICAL, Verdict.SAME, Verdict.COARSER)
SEEDS_AND_NUDGES = (1, 4)  # in float64
# A half type rounds so coarsely that over one seed half a loss would pass: the limit is 2 decades over their root.
SEEDS_AND_NUDGES_IF_COARSER = (4, 2)


def assert_same_training(
    train: Train,
    reference: Train,
    *,
    steps: int,
    dtype: torch.dtype = torch.float64,
    seeds: int | None = None,
    nudges: int | None = None,
) -> None:
    """Assert that one training behaves as another, the reference, down to rounding.

    Both are functions `(recorder) -> None` that train and record what they do; see xent.recording.Recorder. Those that
    take a `dtype` too are given it: in float64 the smallest mistake shows.

    >>> def train(recorder, dtype, attention=mine):
    ...     model = Model(attention).to(dtype)
    ...     recorder.nudge(model)
    ...     for _ in range(recorder.steps):
    ...         x, y = recorder.reorder(*next_batch())
    ...         loss = train_step(model, x, y)
    ...         recorder.step(loss, probe=lambda: model(fixed_inputs))
    >>> assert_same_training(train, partial(train, attention=theirs), steps=200)

    The reference is trained again for each nudge. PyTorch's generator of random numbers is at `recorder.seed` when a
    training begins: what is drawn from it, weights, batches, is the same in both.

    Args:
        steps: that each training makes.
        dtype: given to the functions that take it.
        seeds: trainings with each, from other weights and batches; by default 1, or 4 where outputs are not in float64.
        nudges: of the reference, over each seed; by default 4, or 2 where outputs are not in float64.

    Raises:
        BadInput: trainings that cannot be compared, of which a seed or a nudge does not do what it is to do.
        AssertionError: `train` trains otherwise, or nothing was proved; why, and what to try.
    """
    __tracebackhide__ = True  # for pytest, which shows the call instead
    judgement = judge_training(_given(train, dtype), _given(reference, dtype), steps, seeds, nudges)
    if judgement.verdict not in SAME:
        raise AssertionError(explanation(judgement, "more steps, or another learning rate"))


def judge_training(
    train: Train,
    reference: Train,
    steps: int,
    seeds: int | None = None,
    nudges: int | None = None,
    precisions: dict[str, str] | None = None,
) -> Judgement:
    """The judgement of a training by the reference, both functions `(recorder) -> None`.

    Args:
        precisions: the settings `precision` and `loss_precision`, if the outputs do not tell them.
    """

    def trained(train: Train, name: str, seed: int, nudge: int = 0) -> Trace:
        recorder = Recorder(steps=steps, settings={"seed": seed} | (precisions or {}), nudge=nudge)
        recorder.trace.name = f"{name} of seed {seed}" + (f" and nudge {nudge}" if nudge else "")
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            train(recorder)
        recorder.finish()
        return recorder.trace

    first = trained(reference, "the reference", seed=0)
    exact = all(outputs.dtype == torch.float64 for outputs in first.probes.values())
    usual = SEEDS_AND_NUDGES if exact else SEEDS_AND_NUDGES_IF_COARSER
    pairs: list[Pair] = []
    for seed in range(seeds or usual[0]):
        unnudged = trained(reference, "the reference", seed) if seed else first
        if pairs and bitwise_identical(unnudged, first):
            raise BadInput("seeds 0 and 1 train alike: draw weights and batches from recorder.seed, or give seeds=1")
        nudged = [trained(reference, "the reference", seed, nudge) for nudge in range(1, (nudges or usual[1]) + 1)]
        candidate = trained(train, "the training", seed)
        check_same_probes(candidate, unnudged)
        pairs.append(Pair(candidate, unnudged, unnudged, nudged))
    (judgement,) = judge(pairs)
    return judgement


def _given(train: Train, dtype: torch.dtype) -> Train:
    """A function of the recorder alone."""
    return (lambda recorder: train(recorder, dtype=dtype)) if "dtype" in signature(train).parameters else train
