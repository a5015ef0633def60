"""The trainings of a proof: each recorded, and trained again to find where a difference begins."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from xent.recording import BadInput, Recorder
from xent.recording.device import accelerator, seeded
from xent.recording.float64 import judging_in
from xent.recording.recorder import Probe
from xent.recording.trace import Trace, is_octave
from xent.report.place import place_lines
from xent.verdict.floor import output_gaps
from xent.verdict.judging import Judgement
from xent.verdict.matching import Pair
from xent.verdict.where import Renames, Where, rename_captures, where

Train = Callable[..., None]  # (recorder) or (recorder, dtype)
Settings = Mapping[str, Any] | None
Dtype = torch.dtype | None

NUDGES = 4  # which measure the floor of every tensor


def trained(train: Train, name: str, steps: int, settings: Settings, dtype: Dtype, seed: int, nudge: int = 0) -> Trace:
    """The trace of a training.

    Args:
        train: `(recorder) -> None`, or `(recorder, dtype) -> None`.
        name: what a message calls it.
        steps, settings: of its recorder.
        dtype: float64 to train inside `all_in_float64`; another type, or None, to train as it is written.
        seed, nudge: of its recorder; PyTorch's generators are seeded with the first.
    """
    with judging_in(dtype):
        recorder = Recorder(steps=steps, settings={**(settings or {}), "seed": seed}, nudge=nudge)
        recorder.trace.name = f"{name} of seed {seed}" + (f" and nudge {nudge}" if nudge else "")
        with seeded(seed, accelerator()):
            with_dtype(train, dtype)(recorder)
        recorder.finish()
    return recorder.trace


def with_dtype(train: Train, dtype: Dtype) -> Train:
    """Bind `dtype` if the function takes one; it then takes the recorder alone. One bound by `partial` stays."""
    is_bound = isinstance(train, partial) and "dtype" in train.keywords
    takes_one = dtype is not None and not is_bound and "dtype" in signature(train).parameters
    return partial(train, dtype=dtype) if takes_one else train


def where_it_begins(
    train: Train, reference: Train, judgement: Judgement, settings: Settings, dtype: Dtype, rename: Renames | None
) -> list[str]:
    """Train both again up to the step at which they part, and say in a few lines at which tensor.

    First the powers of two among the steps are captured, then every step between the last that was the same and the
    first that was not.

    Args:
        train, reference, settings, rename: see `assert_same_training`.
        judgement: that they are different.
        dtype: see `trained`.

    Returns:
        nothing if the judgement names no step, or if there is an operation that has no float64.
    """
    last, start = judgement.left_floor, time.perf_counter()
    if last is None:
        return []
    pair = max(judgement.pairs, key=lambda pair: output_gaps(pair.candidate, pair.reference).get(last, 0.0))
    settings = {**(settings or {}), "seed": pair.reference.settings["seed"]}
    among = partial(where_among, train, reference, pair.reference.step, settings, dtype, rename)
    octaves = [step for step in range(1, last + 1) if is_octave(step, last)]
    try:
        place = among(octaves)
        before = max((step for step in octaves if place and step < place.step), default=0)
        if place and place.tensor and place.step - before > 1:
            between = among(range(before + 1, place.step + 1))
            place = between if between and between.tensor else place
    except BadInput:
        return []
    seconds = f"found in {time.perf_counter() - start:.1f} s by training again, which where=False leaves out"
    return [*place_lines(place), seconds] if place else []


def where_among(
    train: Train,
    reference: Train,
    steps: int,
    settings: Settings,
    dtype: Dtype,
    rename: Renames | None,
    captured: Sequence[int],
) -> Where | None:
    """Where two trainings part, of the captured steps; they end after the last of those.

    Args:
        train, reference, steps, settings, rename: see `assert_same_training`.
        dtype: see `trained`.
    """
    settings = {"seed": 0, **(settings or {})}

    def capturing(train: Train, nudge: int = 0) -> Trace:
        with judging_in(dtype), seeded(settings["seed"], accelerator()), suppress(_Captured):
            recorder = _Capturing(steps=steps, settings=settings, nudge=nudge, where=captured)
            with_dtype(train, dtype)(recorder)
        return recorder.trace

    unnudged = capturing(reference)
    nudged = [capturing(reference, nudge) for nudge in range(1, 1 + NUDGES)]
    candidate = capturing(train)
    rename_captures(candidate, rename or {})
    return where([Pair(candidate, unnudged, unnudged, nudged)])


class _Captured(BaseException):
    """All steps that were asked for are captured. No `except Exception` of a training catches it."""


class _Capturing(Recorder):
    """Ends the training after the last captured step."""

    def step(self, loss: Tensor | float, probe: Probe) -> None:
        super().step(loss, probe)
        if self.steps_made == max(self.trace.settings["where"]):
            raise _Captured
