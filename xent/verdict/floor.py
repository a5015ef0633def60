"""How far runs are apart, and the floor: how far correct runs are, by rounding alone."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xent.recording.trace import Trace
from xent.verdict.matching import Pair, without

EARLY = (1, 2, 4)  # the probe steps at which rounding is not yet amplified, even in float32

Gaps = dict[int, float]  # by the number of steps made
Decades = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """How far the runs of a candidate are from their references, over the floor.

    Attributes:
        gap: at each probe step, the geometric mean over the runs.
        floor: the same between nudged reference runs and the one that is not nudged; empty if there is none.
        floor_range: the smallest and the largest gap that the floor is the mean of.
        above: decades between gap and floor at each probe step, the mean over the runs.
        noise_above: the most that a nudge of the reference is above the other nudges, at each probe step.
        margin: decades above the floor, over runs and probe steps; none without a floor.
        noise: the largest margin of any nudge of the reference, judged against the other nudges.
    """

    gap: Gaps
    floor: Gaps
    floor_range: dict[int, list[float]]
    above: Gaps
    noise_above: Gaps
    margin: float | None
    noise: float | None

    @property
    def early(self) -> float:
        """The mean of `above` over the first probe steps."""
        return float(np.mean([decades for step, decades in self.above.items() if step in EARLY]))


def output_gaps(candidate: Trace, reference: Trace) -> Gaps:
    """`||Z_a - Z_b|| / ||Z_b||` of the outputs `Z` at every probe step; at 0 if both recorded that."""
    both = [step for step in reference.probes if step in candidate.probes]
    return {step: _distance(candidate.probes[step], reference.probes[step]) for step in both}


def bitwise_identical(a: Trace, b: Trace) -> bool:
    """Whether every training loss and every output that both recorded is equal."""
    return torch.equal(a.losses, b.losses) and all(
        torch.equal(a.probes[step], b.probes[step]) for step in a.probes.keys() & b.probes.keys()
    )


def loss_gaps(candidate: Trace, reference: Trace) -> Gaps:
    """The same of the training losses of the steps from one probe step to the next, which stand for the latter."""
    ends = [step for step in reference.probes if step > 0]
    spans = [slice(start, end) for start, end in zip([0, *ends], ends)]
    return {span.stop: _distance(candidate.losses[span], reference.losses[span]) for span in spans}


def _distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def drift(pairs: list[Pair], gaps: Callable[[Trace, Trace], Gaps], dtype: torch.dtype) -> Drift:
    """How far the candidate of these pairs drifts from its reference, in outputs or in losses, as `gaps` measures.

    Args:
        dtype: the precision in which the outputs, or the losses, are computed.
    """
    found = [gaps(pair.candidate, pair.reference) for pair in pairs]
    steps = [step for step in found[0] if step > 0]
    epsilon = torch.finfo(dtype).eps

    def decades(of: Gaps) -> Decades:
        # A gap of zero has no logarithm, and one that is not finite no mean with others: what is finer than a tenth of
        # the precision counts as that, and what is larger than its inverse as its inverse.
        finite: Decades = np.nan_to_num([of[step] for step in steps], nan=np.inf)
        logarithms: Decades = np.log10(finite.clip(epsilon / 10, 1 / epsilon))
        return logarithms

    def by_step(values: Decades) -> Gaps:
        return dict(zip(steps, values.tolist()))

    drifts = np.array([decades(each) for each in found])  # [runs, steps]
    gap = {0: float(np.mean([each[0] for each in found]))} if all(0 in each for each in found) else {}
    gap |= {
        step: value * any(each[step] != 0 for each in found) for step, value in by_step(10 ** drifts.mean(0)).items()
    }
    by_seed = {without(pair.unnudged, "nudge"): pair for pair in pairs}
    nudges = min(len(pair.nudged) for pair in by_seed.values())
    if not nudges:
        return Drift(gap, {}, {}, {}, {}, None, None)
    nulls = np.array([[decades(gaps(n, pair.unnudged)) for n in pair.nudged[:nudges]] for pair in by_seed.values()])
    floors = dict(zip(by_seed, nulls.mean(axis=1)))  # of [seeds, nudges, steps]
    above = drifts - np.array([floors[without(pair.unnudged, "nudge")] for pair in pairs])
    noise = _against_the_others(nulls)  # [seeds, nudges, steps]
    return Drift(
        gap,
        floor=by_step(10 ** nulls.mean(axis=(0, 1))),
        floor_range=dict(zip(steps, (10 ** np.quantile(nulls, [0, 1], axis=(0, 1))).T.tolist())),
        above=by_step(above.mean(axis=0)),
        noise_above=by_step(noise.mean(axis=0).max(axis=0)),
        margin=_margin(above),
        noise=max(_margin(noise[:, nudge]) for nudge in range(nudges)),
    )


def _margin(above: Decades) -> float:
    """The mean over all runs and probe steps `[runs, steps]`, or what stands out more: some steps, or one run.

    A mistake that is made late is above the floor in the last steps alone, and one that not every seed meets in one run
    alone. The noise of a mean over a part is larger by the square root of that part; so a part counts its mean times
    that root.
    """
    of_one_run = max(_standing_out(run) for run in above) / sqrt(len(above))
    largest = max(_standing_out(above.mean(axis=0)), of_one_run)
    return float(largest if largest > 0 else above.mean())


def _standing_out(above: Decades) -> float:
    """Of all stretches of probe steps `[steps]` the largest mean times the root of its share of the steps."""
    count = len(above)
    stretches = [above[start:end] for start in range(count) for end in range(start + 1, count + 1)]
    return float(max(stretch.mean() * sqrt(len(stretch) / count) for stretch in stretches))


def _against_the_others(nulls: Decades) -> Decades:
    """Each nudge's decades above the mean of the other nudges, `[seeds, nudges, steps]`; of a lone one, 0."""
    count = nulls.shape[1]
    if count == 1:
        return np.zeros_like(nulls)
    above: Decades = (nulls - nulls.mean(axis=1, keepdims=True)) * count / (count - 1)
    return above
