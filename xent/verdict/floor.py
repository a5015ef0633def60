"""Gaps between runs, and the floor: how far apart correct runs are, by rounding alone."""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xent.recording.errors import BadInput
from xent.recording.settings import precision_of
from xent.recording.trace import LATE, Trace, is_octave, learned
from xent.verdict.matching import Pair, first_mismatch, without

# The largest relative change of the first loss that a nudge may make: no step has amplified it yet.
ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}

EARLY = (1, 2, 4)  # the probe steps at which rounding is not yet amplified, even in float32

# The usual standard deviation of a nudged run's gap at a late probe, in decades, as benchmarks.verdict has it. It
# counts as so many measurements, since two nudges alone tell little.
USUAL_SPREAD, ITS_WEIGHT = 0.25, 4

Gaps = dict[int, float]  # by probe step
Decades = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """How far the runs of a candidate are from their references, and from the floor.

    Attributes:
        gap: at each probe step, the geometric mean over the runs.
        floor: at each probe step, the geometric mean of the gaps between nudged reference runs and the unnudged one;
            empty if there are no nudged runs.
        floor_range: the smallest and the largest gap in that mean.
        above: at each probe step, the decades between gap and floor, the mean over the runs.
        noise_above: at each probe step, the most decades that a nudge of the reference is above the other nudges.
        margin: decades above the floor, over runs and probe steps; NaN without a floor.
        noise: the largest margin of a nudge of the reference, judged against the other nudges.
        above_late: at each late probe step, `above`.
        spread: the standard deviation, in decades, of one late probe of a candidate that only rounds.
    """

    gap: Gaps
    floor: Gaps
    floor_range: dict[int, list[float]]
    above: Gaps
    noise_above: Gaps
    margin: float
    noise: float
    above_late: Gaps
    spread: float

    @property
    def coarseness(self) -> float:
        """Decades above the floor at the first probe steps, which are coarse rounding; 0 if it rounds as finely."""
        return max(0.0, self.early)

    @property
    def late(self) -> Gaps:
        """At each late probe step, the decades above the floor that coarse rounding does not explain."""
        return {step: decades - self.coarseness for step, decades in self.above_late.items()}

    @property
    def most_late(self) -> float:
        """The largest of `late`."""
        return max(self.late.values(), default=0.0)

    @property
    def early(self) -> float:
        """The mean of `above` over the first probe steps, where rounding is not yet amplified."""
        return float(np.mean([self.above[step] for step in self.above if step in EARLY]))


def output_gaps(candidate: Trace, reference: Trace) -> Gaps:
    """The relative distance `||Z_a - Z_b|| / ||Z_b||` of the outputs `Z` at every probe step.

    Step 0 is among them if both runs recorded it.
    """
    both = [step for step in reference.probes if step in candidate.probes]
    return {step: _distance(candidate.probes[step], reference.probes[step]) for step in both}


def bitwise_identical(a: Trace, b: Trace) -> bool:
    """Whether every training loss is equal, and every output that both runs recorded."""
    both = a.probes.keys() & b.probes.keys()
    return torch.equal(a.losses, b.losses) and all(torch.equal(a.probes[step], b.probes[step]) for step in both)


def loss_gaps(candidate: Trace, reference: Trace) -> Gaps:
    """The relative distance of the training losses between one power of two and the next, by the latter step."""
    ends = [step for step in reference.probes if step > 0 and is_octave(step, reference.step)]
    spans = [slice(start, end) for start, end in zip([0, *ends], ends)]
    return {span.stop: _distance(candidate.losses[span], reference.losses[span]) for span in spans}


def _distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def drift(pairs: list[Pair], gaps: Callable[[Trace, Trace], Gaps], dtype: torch.dtype) -> Drift:
    """How far the candidate of these pairs drifts from its reference, in outputs or in losses.

    Args:
        pairs: the candidate's runs with their reference runs.
        gaps: what is measured, `output_gaps` or `loss_gaps`.
        dtype: the precision in which the outputs, or the losses, are computed.
    """
    all_gaps = [gaps(pair.candidate, pair.reference) for pair in pairs]
    all_steps = [step for step in all_gaps[0] if step > 0]
    octave = np.array([is_octave(step, all_steps[-1]) for step in all_steps])
    steps, epsilon = np.array(all_steps)[octave].tolist(), torch.finfo(dtype).eps

    def decades(gaps: Gaps) -> Decades:
        # A gap of zero has no logarithm, and a non-finite gap spoils the mean. So gaps are clipped: to a tenth of the
        # precision from below, to its inverse from above.
        finite: Decades = np.nan_to_num([gaps[step] for step in all_steps], nan=np.inf)
        return np.log10(finite.clip(epsilon / 10, 1 / epsilon))

    def by_step(values: Decades) -> Gaps:
        return dict(zip(steps, values.tolist()))

    all_drifts = np.array([decades(gaps) for gaps in all_gaps])  # [runs, all steps]
    drifts = all_drifts[:, octave]
    mean = {0: float(np.mean([gaps.get(0, np.nan) for gaps in all_gaps]))} | by_step(10 ** drifts.mean(0))
    gap = {step: mean[step] * any(gaps[step] != 0 for gaps in all_gaps) for step in mean if step in all_gaps[0]}
    by_seed = {without(pair.unnudged, "nudge"): pair for pair in pairs}
    nudges = min(len(pair.nudged) for pair in by_seed.values())
    if not nudges:
        return Drift(gap, {}, {}, {}, {}, nan, nan, {}, nan)
    all_nulls = np.array([[decades(gaps(n, pair.unnudged)) for n in pair.nudged[:nudges]] for pair in by_seed.values()])
    nulls = all_nulls[..., octave]  # [seeds, nudges, steps]
    floors = dict(zip(by_seed, all_nulls.mean(axis=1)))
    all_above = all_drifts - np.array([floors[without(pair.unnudged, "nudge")] for pair in pairs])
    above, noise = all_above[:, octave], _against_the_others(nulls)
    floor_range = dict(zip(steps, (10 ** np.quantile(nulls, [0, 1], axis=(0, 1))).T.tolist()))
    above_by_step, noise_by_step = by_step(above.mean(axis=0)), by_step(noise.mean(axis=0).max(axis=0))
    reach = max(_margin(noise[:, nudge]) for nudge in range(nudges))
    floor = by_step(10 ** nulls.mean(axis=(0, 1)))
    late = [i for i, step in enumerate(all_steps) if step >= LATE and gaps is output_gaps]  # losses are noisier
    above_late = dict(zip([all_steps[i] for i in late], all_above[:, late].mean(axis=0).tolist()))
    spread = _spread(all_nulls[..., late])
    return Drift(gap, floor, floor_range, above_by_step, noise_by_step, _margin(above), reach, above_late, spread)


def _spread(nulls: Decades) -> float:
    """The standard deviation of a candidate's decades above the floor at one late probe, if it only rounds.

    Args:
        nulls: the gaps of nudged runs in decades, `[seeds, nudges, late steps]`.
    """
    seeds, nudges, _ = nulls.shape
    known = seeds * (nudges - 1)  # the late probes of one run are apart together
    measured = nulls.var(axis=1, ddof=1).mean() if known and nulls.size else 0.0
    variance = (ITS_WEIGHT * USUAL_SPREAD**2 + known * measured) / (ITS_WEIGHT + known)
    return float(np.sqrt(variance * (1 + 1 / nudges) / seeds))


def _margin(above: Decades) -> float:
    """The mean of the decades `[runs, steps]`, or what stands out more: some steps, or one run.

    A late mistake is above the floor in the last steps alone. A mistake that not every seed meets is above it in one
    run alone. The mean over a fraction `f` of the values is noisier by `1 / sqrt(f)`, so it counts times `sqrt(f)`.
    """
    one_run = max(_standing_out(run) for run in above) / sqrt(len(above))
    largest = max(_standing_out(above.mean(axis=0)), one_run)
    return float(largest if largest > 0 else above.mean())


def _standing_out(above: Decades) -> float:
    """The largest mean over consecutive probe steps `[steps]`, each mean times the root of its share of the steps."""
    count = len(above)
    stretches = [above[start:end] for start in range(count) for end in range(start + 1, count + 1)]
    return float(max(stretch.mean() * sqrt(len(stretch) / count) for stretch in stretches))


def _against_the_others(nulls: Decades) -> Decades:
    """Leave-one-out decades `[seeds, nudges, steps]`: each nudge above the mean of the others; 0 for a single nudge."""
    count = nulls.shape[1]
    return (nulls - nulls.mean(axis=1, keepdims=True)) * count / max(count - 1, 1)


def check_measure(pair: Pair) -> None:
    """Check that the reference runs of a pair measure rounding. If they do not, floor and verdict mean nothing.

    Raises:
        BadInput: a nudged run got other weights or batches, equals the unnudged run bit for bit, or changes the first
            loss, or in float64 the first outputs, by more than rounding can; or the outputs do not change, or are
            non-finite, though the loss falls.
    """
    plain = pair.unnudged
    _check_outputs(plain)
    named = (precision_of(plain.settings, key) for key in ("precision", "loss_precision"))
    dtype = max(filter(None, (plain.first_outputs.dtype, *named)), key=lambda dtype: torch.finfo(dtype).eps)
    limit = ROUNDING.get(dtype, 0.1)
    for nudged in pair.nudged:
        if mismatch := first_mismatch(nudged, plain):
            fault = f"{nudged.name} got {mismatch} than {plain.name}, and they must differ in the nudge alone"
            raise BadInput(f"{fault}: draw weights and batches from the seed, then nudge the model")
        if bitwise_identical(nudged, plain):
            fault = f"{nudged.name} is bitwise identical to {plain.name}, its nudge changed nothing"
            raise BadInput(f"{fault}: call nudge(model) before the first step, and train on what reorder() returns")
        first, other = (float(trace.losses[0]) for trace in (plain, nudged))
        largest = float(plain.losses[:10].nan_to_num(0, 0, 0).abs().max())  # a first loss may be 0 but for rounding
        rounding = f"rounding does not explain that in {str(dtype).removeprefix('torch.')}"
        if abs(other - first) > limit * largest:
            fault = f"the first loss of {nudged.name} is {other:.9g}, that of {plain.name} {first:.9g}"
            advice = "turn dropout off, seed every random draw, reorder inputs and targets alike"
            raise BadInput(f"{fault}, and {rounding}: {advice}, and give a lower precision as a setting")
        for step in EARLY if dtype == torch.float64 else ():
            both = [trace.probes[step] for trace in (nudged, plain) if step in trace.probes]
            if len(both) == 2 and (gap := _distance(*both)) > limit:
                fault = f"the outputs of {nudged.name} are {gap:.0e} from those of {plain.name} at step {step}"
                advice = "turn dropout off, seed every random draw"
                raise BadInput(f"{fault}, and {rounding}: {advice}; leave reorder out, where batches hand on a state")


def moved(trace: Trace, pair: Pair) -> bool:
    """Whether the outputs of a run are finite, and changed from its first probe to its last by far more than rounding.

    The floor of the first probe tells rounding: later ones grow with the training's own chaos. A loss need not fall:
    rewards rise, and the losses of a GAN hover.
    """
    first, last = trace.first_outputs, trace.probes[max(trace.probes)]
    gaps = []
    for nudged in pair.nudged:
        step = min(nudged.probes.keys() & pair.unnudged.probes.keys())
        gaps.append(_distance(nudged.probes[step], pair.unnudged.probes[step]))
    floor = max(torch.finfo(first.dtype).eps, float(np.mean(gaps)) if gaps else 0.0)
    far = max(10 * floor, min(1000 * floor, 0.1))  # 1000 times the floor of a half type would be too much
    return len(trace.probes) == 1 or (_distance(last, first) > far and bool(last.isfinite().all()))


def _check_outputs(trace: Trace) -> None:
    """Check that the outputs change and are finite, if the loss falls.

    Raises:
        BadInput: they are constant or non-finite.
    """
    first, *_, last = [trace.first_outputs, *trace.probes.values()]
    is_constant, is_finite = torch.equal(first, last) and trace.step > 1, last.isfinite().any()
    if learned(trace.losses) and (is_constant or not is_finite):
        what = "the same all the time" if is_finite else "non-finite"
        raise BadInput(f"the outputs of {trace.name} are {what}, though its loss falls: probe what training changes")
