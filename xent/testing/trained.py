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
from xent.recording.errors import in_one_line, where_raised
from xent.recording.float64 import judging_in
from xent.recording.recorder import Probe
from xent.recording.trace import Trace, is_probe_step
from xent.report.place import place_lines
from xent.verdict.floor import output_gaps
from xent.verdict.judging import Judgement
from xent.verdict.matching import Pair
from xent.verdict.where import Place, Renames, find_place, rename_captures

Train = Callable[..., None]  # (recorder) or (recorder, dtype)
Settings = Mapping[str, Any] | None
Dtype = torch.dtype | None

NUDGES = 4  # which measure the floor of every tensor


class Kept:
    """A reference whose trainings are kept, so that many changes are held against it and it trains once.

    >>> @pytest.fixture(scope="session")
    ... def reference():
    ...     return Kept(train)
    >>> @pytest.mark.parametrize("attention", [flash, sliced])
    ... def test_attention(reference, attention):
    ...     assert_same_training(partial(train, attention=attention), reference)
    """

    def __init__(self, train: Train) -> None:
        """Keep the trainings of a function `(recorder) -> None`, or `(recorder, dtype) -> None`."""
        self.train = train
        self.traces: dict[Any, Trace] = {}

    def __call__(self, *arguments: Any) -> None:
        self.train(*arguments)


def trained(  # noqa: PLR0913  what makes one training another
    train: Train,
    name: str,
    steps: int | None,
    settings: Settings,
    dtype: Dtype,
    seed: int,
    nudge: int = 0,
    where: Sequence[int] = (),
) -> Trace:
    """The trace of a training.

    Args:
        train: `(recorder) -> None`, or `(recorder, dtype) -> None`; one that is `Kept` trains only once.
        name: what a message calls it.
        steps, settings: of its recorder.
        dtype: float64 to train inside `all_in_float64`; another type, or None, to train as it is written.
        seed, nudge: of its recorder; PyTorch's generators are seeded with the first.
        where: the steps to capture; the training ends after the last of them.

    Raises:
        BadInput: the training cannot be recorded, or raises any other exception.
    """
    if isinstance(train, Kept):
        key = steps, repr(settings), dtype, seed, nudge, tuple(where)
        if key not in train.traces:
            train.traces[key] = trained(train.train, name, steps, settings, dtype, seed, nudge, where)
        return train.traces[key]
    with judging_in(dtype):
        recorder = _UpTo(steps=steps, settings={**(settings or {}), "seed": seed}, nudge=nudge, where=where)
        recorder.last = max(where, default=0)
        recorder.trace.name = f"{name} of seed {seed}" + (f" and nudge {nudge}" if nudge else "")
        try:
            with seeded(seed, accelerator()), suppress(_AllCaptured):
                with_dtype(train, dtype)(recorder)
        except BadInput as error:
            raise BadInput(where_raised(error)) from error
        except Exception as error:  # an AssertionError, say, which is no verdict
            made = f"{recorder.trace.name} stopped after {recorder.steps_made} steps"
            raise BadInput(f"{made} ({where_raised(error)})") from error
        if not where:
            recorder.finish()
    return recorder.trace


class _AllCaptured(BaseException):
    """Ends a training, whose own `except Exception` does not catch it."""


class _UpTo(Recorder):
    """Ends the training after the step `last`, unless that is 0."""

    last = 0

    def step(self, loss: Tensor | float, probe: Probe) -> None:
        super().step(loss, probe)
        if self.steps_made == self.last:
            raise _AllCaptured


def with_dtype(train: Train, dtype: Dtype) -> Train:
    """Bind `dtype` if the function takes one; it then takes the recorder alone. One bound by `partial` stays."""
    is_bound = isinstance(train, partial) and "dtype" in train.keywords
    takes_one = dtype is not None and not is_bound and "dtype" in signature(train).parameters
    return partial(train, dtype=dtype) if takes_one else train


def where_it_begins(
    train: Train, reference: Train, judgement: Judgement, settings: Settings, dtype: Dtype, rename: Renames | None
) -> list[str]:
    """Train both again up to the step at which they part, and say in a few lines at which tensor.

    First the probe steps are captured, then every step between the last that was the same and the first that was not.

    Args:
        train, reference, settings, rename: see `assert_same_training`.
        judgement: that they are different.
        dtype: see `trained`. With float64, one seed is trained again; else all that were judged, whose mean tells more.

    Returns:
        nothing if the judgement names no step.
    """
    last, start = judgement.left_floor, time.perf_counter()
    if last is None:
        return []
    furthest = max(judgement.pairs, key=lambda pair: output_gaps(pair.candidate, pair.reference).get(last, 0.0))
    pairs = [furthest] if dtype == torch.float64 else judgement.pairs
    again = furthest.reference.step, settings, dtype, [pair.reference.settings["seed"] for pair in pairs]
    probed = [step for step in range(1, last + 1) if is_probe_step(step, last)]
    try:
        place = place_among(train, reference, probed, *again, rename=rename)
        before = max((step for step in probed if place and step < place.step), default=0)
        if place and place.tensor and place.step - before > 1:
            between = place_among(train, reference, range(before + 1, place.step + 1), *again, rename=rename)
            place = between if between and between.tensor else place
    except Exception as error:  # an operation that has no float64, say; the proof has failed in any case
        return [f"not found: training again stopped ({in_one_line(error)})"]
    if not place:
        return []
    lines = place_lines(place)
    if not place.tensor:
        lines[0] = f"not found: {lines[0]} by itself"
    return [*lines, f"found in {time.perf_counter() - start:.1f} s by training again; where=False skips this"]


def place_among(  # noqa: PLR0913  what makes one training another
    train: Train,
    reference: Train,
    where: Sequence[int],
    steps: int | None,
    settings: Settings,
    dtype: Dtype,
    seeds: Sequence[int] = (0,),
    *,
    rename: Renames | None = None,
) -> Place | None:
    """Where two trainings part, of the steps `where`, after which they end.

    Args:
        train, reference, steps, settings, rename: see `assert_same_training`.
        dtype: see `trained`.
        seeds: of the trainings.
    """
    pairs, captured, nudges = list[Pair](), list(where), range(1 + NUDGES)
    for seed in seeds:
        again = steps, settings, dtype, seed
        unnudged, *nudged = (trained(reference, "the reference", *again, nudge, captured) for nudge in nudges)
        candidate = trained(train, "the training", *again, where=captured)
        rename_captures(candidate, rename or {})
        pairs.append(Pair(candidate, unnudged, unnudged, nudged))
    return find_place(pairs)
