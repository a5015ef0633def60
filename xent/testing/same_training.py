"""The proof of a training of your own, with its own loop: `assert_same_training(train, reference)`."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch

from xent.recording import BadInput, Recorder
from xent.recording.device import accelerator, seeded
from xent.recording.trace import Trace
from xent.report.explanation import explanation
from xent.verdict.floor import bitwise_identical
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import Pair, check_same_probes

Train = Callable[..., None]  # (recorder) or (recorder, dtype)
Settings = Mapping[str, Any] | None

SAME = (Verdict.IDENTICAL, Verdict.SAME, Verdict.COARSER)


def assert_same_training(
    train: Train,
    reference: Train,
    *,
    steps: int = 200,
    dtype: torch.dtype = torch.float64,
    seeds: int | None = None,
    nudges: int | None = None,
    settings: Settings = None,
) -> None:
    """Assert that `train` and `reference` train the same, down to rounding.

    Both are functions `(recorder) -> None` that train and record it, as in xent.recording.Recorder; they need not call
    `finish`. A function with a parameter `dtype` gets it: in float64 the smallest mistake shows.

    >>> def train(recorder, dtype, attention=mine):
    ...     model = Model(attention).to(dtype)
    ...     recorder.nudge(model)
    ...     for _ in range(recorder.steps): ...
    >>> assert_same_training(train, partial(train, attention=theirs), steps=200)

    PyTorch's random number generators are set to `recorder.seed` before each training, so that both draw the same
    weights and batches from them. The reference is trained again for each nudge.

    Args:
        steps: the number of steps of each training, `recorder.steps`.
        dtype: for the functions that take one.
        seeds: how many; both are trained for each. Defaults to 1, or to 4 if outputs are not in float64.
        nudges: how many for each seed. Defaults to 4, or to 2 if outputs are not in float64.
        settings: of the recorders, such as {"precision": "bfloat16"} under autocast.

    Raises:
        BadInput: the trainings cannot be compared, or a seed or a nudge has no effect, or a nudge too large a one.
        AssertionError: they differ, or nothing was proved; the message says why, and what to try.
    """
    __tracebackhide__ = True  # for pytest, which shows the call instead
    judgement = judge_training(_with_dtype(train, dtype), _with_dtype(reference, dtype), steps, seeds, nudges, settings)
    if judgement.verdict not in SAME:
        raise AssertionError(explanation(judgement, "more steps, or another learning rate"))


def judge_training(
    train: Train,
    reference: Train,
    steps: int,
    seeds: int | None = None,
    nudges: int | None = None,
    settings: Settings = None,
) -> Judgement:
    """Judge a training against the reference, both functions `(recorder) -> None`.

    Args:
        train, reference, steps, seeds, nudges, settings: see `assert_same_training`.

    Raises:
        BadInput: the trainings cannot be compared.
    """
    if any(count is not None and count < 1 for count in (seeds, nudges)):
        raise BadInput(f"seeds={seeds}, nudges={nudges}: expected 1 or more of each")

    def trained(train: Train, name: str, seed: int, nudge: int = 0) -> Trace:
        recorder = Recorder(steps=steps, settings={**(settings or {}), "seed": seed}, nudge=nudge)
        recorder.trace.name = f"{name} of seed {seed}" + (f" and nudge {nudge}" if nudge else "")
        with seeded(seed, accelerator()):
            train(recorder)
        recorder.finish()
        return recorder.trace

    first = trained(reference, "the reference", seed=0)
    usual = seeds_and_nudges(first.first_outputs.dtype)
    numbers = range(1, 1 + (nudges or usual[1]))
    pairs: list[Pair] = []
    for seed in range(seeds or usual[0]):
        unnudged = trained(reference, "the reference", seed) if seed else first
        if pairs and bitwise_identical(unnudged, first):
            raise BadInput(f"seeds 0 and {seed} train alike: draw from recorder.seed, or give seeds=1")
        nudged = [trained(reference, "the reference", seed, nudge) for nudge in numbers]
        candidate = trained(train, "the training", seed)
        check_same_probes(candidate, unnudged)
        pairs.append(Pair(candidate, unnudged, unnudged, nudged))
    (judgement,) = judge(pairs)
    return judgement


def seeds_and_nudges(dtype: torch.dtype) -> tuple[int, int]:
    """The default numbers of seeds and nudges, for outputs or logits of this dtype.

    With one seed, a loss in a half type that is half off would pass: the limit is 2 decades over the root of the seeds.
    """
    return (1, 4) if dtype == torch.float64 else (4, 2)


def _with_dtype(train: Train, dtype: torch.dtype) -> Train:
    """Bind `dtype` if the function takes one; it then takes the recorder alone. One bound by `partial` stays."""
    if isinstance(train, partial) and "dtype" in train.keywords:
        return train
    return (lambda recorder: train(recorder, dtype=dtype)) if "dtype" in signature(train).parameters else train
