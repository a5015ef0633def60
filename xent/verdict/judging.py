"""Matched runs in, verdicts out: how far a candidate drifts from its reference, against the drift of rounding alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xent.training.trace import Trace, learned
from xent.verdict.matching import Pair, without

# Decades above the floor that rounding does not explain over one seed; over n, a mean, the square root of n less.
LIMIT = 2.0  # benchmarks/verdict.py measures how often it is wrong

Gaps = dict[int, float]  # by the number of steps made


class Verdict(StrEnum):
    IDENTICAL = "bitwise identical"
    SAME = "same within rounding"
    DIFFERENT = "different"
    NO_FLOOR = "no floor"
    NOTHING_LEARNED = "nothing learned"


@dataclass(frozen=True)
class Judgement:
    """What is found of a candidate over all its runs: those of other seeds and other nudges.

    Attributes:
        settings: what the candidate's runs share.
        pairs: the runs, each beside its reference.
        gap: between candidate and reference at the probe steps, the geometric mean over the runs.
        floor: the same between nudged reference runs and the one that is not; empty if there is none.
        floor_range: the smallest and the largest gap that the floor is the mean of.
        margin: decades above the floor, the mean over probe steps and runs; none of identical runs, or without a floor.
        noise: the largest margin of any nudge of the reference, judged against the other nudges.
        left_floor: the first probe step at which the gap left the floor.
        largest_loss_difference: between the training losses of a run and its reference, over all steps and runs.
    """

    settings: dict[str, Any]
    pairs: list[Pair]
    verdict: Verdict
    gap: Gaps
    floor: Gaps
    floor_range: dict[int, tuple[float, float]]
    margin: float | None
    noise: float | None
    left_floor: int | None
    largest_loss_difference: float


def judge(pairs: Iterable[Pair]) -> list[Judgement]:
    """A verdict on each candidate: on its runs, which share all settings but `seed` and `nudge`."""
    candidates: dict[str, list[Pair]] = {}
    for pair in pairs:
        candidates.setdefault(without(pair.candidate, "seed", "nudge"), []).append(pair)
    return [_judged(each) for each in candidates.values()]


def gap(candidate: Tensor, reference: Tensor) -> float:
    """`||Z_a - Z_b|| / ||Z_b||` of two probe logits, in float64."""
    candidate, reference = candidate.double(), reference.double()
    return float(torch.linalg.vector_norm(candidate - reference) / torch.linalg.vector_norm(reference))


def gaps(candidate: Trace, reference: Trace) -> Gaps:
    """The gap at every probe step."""
    return {step: gap(candidate.probe_logits[step], logits) for step, logits in reference.probe_logits.items()}


def bitwise_identical(a: Trace, b: Trace) -> bool:
    """Whether every training loss and every probe logit is equal."""
    return torch.equal(a.losses, b.losses) and all(
        torch.equal(logits, b.probe_logits[step]) for step, logits in a.probe_logits.items()
    )


def _judged(pairs: list[Pair]) -> Judgement:
    steps = [step for step in pairs[0].reference.probe_logits if step > 0]
    drift = np.array([_decades(pair.candidate, pair.reference) for pair in pairs])  # [pairs, steps]
    # Of each seed once: [seeds, nudges, steps]
    by_seed = {without(pair.unnudged, "nudge"): pair for pair in pairs}
    nudges = min(len(pair.nudged) for pair in by_seed.values())
    nulls = np.array([[_decades(n, pair.unnudged) for n in pair.nudged[:nudges]] for pair in by_seed.values()])
    floors = dict(zip(by_seed, nulls.mean(axis=1))) if nudges else {}
    smallest_and_largest = [(10 ** of(nulls, axis=(0, 1))).tolist() for of in (np.min, np.max)] if nudges else []

    verdict, margin, noise, left_floor = Verdict.NO_FLOOR, None, None, None
    if nudges:
        above = drift - np.array([floors[without(pair.unnudged, "nudge")] for pair in pairs])
        null_above = _against_the_others(nulls)
        margin, noise = float(above.mean()), float(null_above.mean(axis=(0, 2)).max())
        limit = LIMIT / sqrt(len(by_seed))
        verdict = Verdict.DIFFERENT if margin > max(limit, noise) else Verdict.SAME
        left = above.mean(axis=0) > np.maximum(limit, null_above.mean(axis=0).max(axis=0))
        left_floor = steps[int(left.argmax())] if verdict is Verdict.DIFFERENT and left.any() else None
    identical = all(bitwise_identical(pair.candidate, pair.reference) for pair in pairs)
    if identical:
        verdict, margin = Verdict.IDENTICAL, None
    if not any(learned(trace.losses) for pair in pairs for trace in (pair.candidate, pair.reference)):
        verdict = Verdict.NOTHING_LEARNED  # and alike in that: it tells nothing of the loss

    start = float(np.mean([gap(pair.candidate.probe_logits[0], pair.reference.probe_logits[0]) for pair in pairs]))
    loss_differences = [(pair.candidate.losses - pair.reference.losses).abs().max().item() for pair in pairs]
    return Judgement(
        settings={key: v for key, v in pairs[0].candidate.settings.items() if key not in ("seed", "nudge")},
        pairs=pairs,
        verdict=verdict,
        gap={0: start} | dict(zip(steps, [0.0] * len(steps) if identical else (10 ** drift.mean(axis=0)).tolist())),
        floor=dict(zip(steps, (10 ** nulls.mean(axis=(0, 1))).tolist())) if nudges else {},
        floor_range=dict(zip(steps, zip(*smallest_and_largest))),
        margin=margin,
        noise=noise,
        left_floor=left_floor,
        largest_loss_difference=max(loss_differences),
    )


def _decades(candidate: Trace, reference: Trace) -> NDArray[np.float64]:
    """log10 of the gap at the probe steps after step 0.

    A gap of zero has no logarithm, and one that is not finite no mean with others: what is finer than a tenth of the
    precision counts as that, and what is larger than its inverse as its inverse.
    """
    precision = torch.finfo(reference.probe_logits[0].dtype).eps
    found = np.array([value for step, value in gaps(candidate, reference).items() if step > 0])
    decades: NDArray[np.float64] = np.log10(np.nan_to_num(found, nan=np.inf).clip(precision / 10, 1 / precision))
    return decades


def _against_the_others(nulls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each nudge's decades above the mean of the other nudges, `[seeds, nudges, steps]`; of a lone one, 0."""
    count = nulls.shape[1]
    if count == 1:
        return np.zeros_like(nulls)
    above: NDArray[np.float64] = (nulls - nulls.mean(axis=1, keepdims=True)) * count / (count - 1)
    return above
