"""Verdicts on matched runs: is a candidate's drift that of rounding?"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from xent.recording.settings import precision_of
from xent.recording.trace import Trace
from xent.training.trials import Outcome, Outcomes, differ
from xent.verdict.floor import Drift, bitwise_identical, check_measure, drift, loss_gaps, moved, output_gaps
from xent.verdict.matching import Pair, first_mismatch, over_common_steps, without
from xent.verdict.where import Place, find_place

# Decades above the floor that rounding does not explain, for one seed. For a mean over n seeds, divide by sqrt(n).
LIMIT = 2.0  # benchmarks/verdict.py measures how often it is wrong

# A single late probe may be so many standard deviations beyond the limit.
LATE_DEVIATIONS = 3.0


class Verdict(StrEnum):
    IDENTICAL = "bitwise identical"
    SAME = "same within rounding"
    COARSER = "coarser rounding"
    DIFFERENT = "different"
    OTHER_VALUES = "same learning, other values"
    OTHER_IN_TRIALS = "same learning, other at large logits"
    OTHER_END = "same learning, another end"
    NO_FLOOR = "no floor"
    NOTHING_LEARNED = "nothing learned"


WRONG = {Verdict.DIFFERENT, Verdict.OTHER_VALUES, Verdict.OTHER_IN_TRIALS, Verdict.OTHER_END}


@dataclass(frozen=True)
class Judgement:
    """The result for a candidate over all its runs: those of other seeds and other nudges.

    Attributes:
        settings: what the candidate's runs share.
        pairs: the runs, each with its reference.
        outputs: the drift of the probe's outputs: of what was learned.
        losses: the drift of the training losses: of what the loss reports.
        limit: decades above the floor that rounding explains, for this number of seeds.
        ends: after how many steps the candidate's runs ended, and those of the reference, nudged or not. They are
            judged over the steps that all made.
        other_precision: the judgement of the same candidate in the other precision, float32 or float64.
    """

    settings: dict[str, Any]
    pairs: list[Pair]
    outputs: Drift
    losses: Drift
    limit: float
    ends: tuple[set[int], set[int]]
    other_precision: "Judgement | None" = None

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict; docs/verdict.md explains the rule."""
        verdict = self._verdict_of_training
        if verdict not in (Verdict.IDENTICAL, Verdict.SAME, Verdict.COARSER):
            return verdict
        ends, expected = self.ends
        if not min(expected) <= min(ends) <= max(ends) <= max(expected):
            return Verdict.OTHER_END
        return Verdict.OTHER_IN_TRIALS if self.trials else verdict

    @property
    def trials(self) -> Outcomes:
        """The outcomes of trials in which the losses differ, with the norm alone of each gradient."""
        differing: Outcomes = {}
        half = [torch.bfloat16] if self._verdict_of_training is Verdict.COARSER else []  # it may round as one
        for pair in self.pairs:
            runs = pair.candidate, pair.reference
            of_logits = [precision_of(run.settings, "loss_precision") or run.first_outputs.dtype for run in runs]
            dtype = max(half + of_logits, key=lambda dtype: torch.finfo(dtype).eps)
            for name in (name for name in runs[0].trials if name in runs[1].trials):
                (value, norm), (expected_value, expected_norm) = (run.trials[name] for run in runs)
                norms = torch.tensor([[norm], [expected_norm]], dtype=torch.float64)
                ours, expected = Outcome(value, norms[0]), Outcome(expected_value, norms[1])
                if differ(ours, expected, dtype):
                    differing[name] = ours, expected
        return differing

    @cached_property
    def _verdict_of_training(self) -> Verdict:
        if not any(moved(trace, pair) for pair in self.pairs for trace in (pair.candidate, pair.reference)):
            return Verdict.NOTHING_LEARNED  # neither run learned, which tells nothing about the change
        if all(bitwise_identical(pair.candidate, pair.reference) for pair in self.pairs):
            return Verdict.IDENTICAL
        if not self.outputs.floor:
            return Verdict.NO_FLOOR
        decades, limit = self.excess
        above_floor = decades > limit
        if above_floor and not self._shrinks("outputs"):
            return Verdict.DIFFERENT
        if self.losses.margin > self.allowed(self.losses) and not self._shrinks("losses"):
            return Verdict.OTHER_VALUES
        return Verdict.COARSER if above_floor else Verdict.SAME

    @property
    def casts(self) -> list[str]:
        """The types that the candidate casts to, which were seen through."""
        return sorted({cast for pair in self.pairs for cast in pair.candidate.casts})

    def allowed(self, drift: Drift) -> float:
        """Decades above the floor that outputs, or losses, may reach: the limit, or what any nudged run reaches."""
        return max(self.limit, drift.noise)  # a NaN is never the larger

    @property
    def allowed_late(self) -> float:
        """Decades above the floor that outputs may reach at a single late probe."""
        return self.allowed(self.outputs) + LATE_DEVIATIONS * self.outputs.spread

    @property
    def excess(self) -> tuple[float, float]:
        """Decades of the outputs above the floor, and how many rounding explains.

        These are margin and limit, or what one late probe shows, if that alone is too much.
        """
        margin, limit = self.outputs.margin, self.allowed(self.outputs)
        is_late = margin <= limit and self.outputs.most_late > self.allowed_late
        return (self.outputs.most_late, self.allowed_late) if is_late else (margin, limit)

    @property
    def left_floor(self) -> int | None:
        """The first probe step at which the candidate left the floor; None if the verdict is not one of difference.

        If no single step is above the limit, it is the step furthest above the floor.
        """
        drifts = {Verdict.DIFFERENT: self.outputs, Verdict.OTHER_VALUES: self.losses}
        if self.verdict not in drifts:
            return None
        above, noise = drifts[self.verdict].above, drifts[self.verdict].noise_above
        left = [step for step in above if above[step] > max(self.limit, noise[step])]
        if self.verdict is Verdict.DIFFERENT:
            left += [step for step, decades in self.outputs.late.items() if decades > self.allowed_late]
        return min(left) if left else max(above, key=lambda step: above[step])

    @property
    def first_mismatch(self) -> str:
        """The first input of a run that its reference did not get, such as another batch; empty if there is none."""
        others = (first_mismatch(pair.candidate, pair.reference) for pair in self.pairs)
        return next(filter(None, others), "")

    @cached_property
    def place(self) -> Place | None:
        """Where the candidate leaves the floor; None if no step of all runs was captured."""
        return find_place(self.pairs)

    def _shrinks(self, what: str) -> bool:
        """Whether what is above the floor shrinks with the precision, as rounding does and a mistake does not.

        At the first steps, before the runs part, coarse rounding is as many decades above the floor in float64 as in
        float32. A mistake has the same size in both, so in float64 it is up to nine decades further above the floor. In
        float32 runs also part by chance: what shows in float32 alone must stand out twice as far, or be non-finite, to
        be a mistake.

        Args:
            what: `outputs` or `losses`.
        """
        if self.other_precision is None or any(_broke(pair, what) for pair in self.pairs):
            return False
        both = self, self.other_precision
        other, in_float64 = sorted(both, key=lambda judgement: judgement.settings["precision"] == "float64")
        coarse, fine = getattr(other, what), getattr(in_float64, what)
        explained = coarse.margin - coarse.coarseness <= max(2 * other.limit, coarse.noise)
        explained = explained and coarse.most_late <= 2 * other.allowed_late
        coarseness = 0.0 if in_float64.casts else coarse.coarseness  # what is seen through rounds as float64 does
        same = fine.margin - coarseness <= in_float64.allowed(fine) and fine.most_late <= in_float64.allowed_late
        return bool(explained and same)


def together(judgements: list[Judgement]) -> list[Judgement]:
    """The judgements of one candidate in one precision, or in two, each of which then knows the other."""
    others = judgements[::-1] if len(judgements) == 2 else [None]
    return [replace(judgement, other_precision=other) for judgement, other in zip(judgements, others)]


def judge(pairs: Iterable[Pair]) -> list[Judgement]:
    """Judge each candidate by its runs, which share all settings but `seed` and `nudge`.

    Raises:
        BadInput: the reference runs do not measure rounding; see `check_measure`.
    """
    candidates: dict[str, list[Pair]] = {}
    for pair in pairs:
        candidates.setdefault(without(pair.candidate, "seed", "nudge"), []).append(pair)
    judgements = {_but_precision(pairs[0]): _judgement(pairs) for pairs in candidates.values()}
    other = {"float32": "float64", "float64": "float32"}
    judged = {key: judgement for key, judgement in judgements.items() if judgement.outputs.floor}
    twins = [judged.get((other.get(precision, "none"), rest)) for precision, rest in judgements]
    return [replace(judgement, other_precision=twin) for judgement, twin in zip(judgements.values(), twins)]


def _but_precision(pair: Pair) -> tuple[str, str]:
    """The precision of candidate and reference, and all other settings.

    The precision is left empty if it is what is compared, or if the loss has one of its own.
    """
    both = [str(trace.settings.get("precision")) for trace in (pair.candidate, pair.reference)]
    if both[0] != both[1] or has_own_loss_precision(pair.candidate.settings):
        return "", without(pair.candidate, "seed", "nudge")
    return both[0], without(pair.candidate, "seed", "nudge", "precision")


def has_own_loss_precision(settings: dict[str, Any]) -> bool:
    """Whether the loss computes in another precision than the model."""
    precision = settings.get("precision")
    return settings.get("loss_precision", precision) != precision


def _judgement(pairs: list[Pair]) -> Judgement:
    """The judgement of one candidate, without its other precision."""
    references = [run for pair in pairs for run in (pair.reference, pair.unnudged, *pair.nudged)]
    ends = {pair.candidate.step for pair in pairs}, {run.step for run in references}
    pairs = over_common_steps(pairs)
    settings = {key: v for key, v in pairs[0].candidate.settings.items() if key not in ("seed", "nudge")}
    seeds = len({without(pair.unnudged, "nudge") for pair in pairs})
    of_outputs = pairs[0].reference.first_outputs.dtype
    of_losses = getattr(torch, str(settings["loss_precision"])) if has_own_loss_precision(settings) else of_outputs
    coarser = max(of_outputs, of_losses, key=lambda dtype: torch.finfo(dtype).eps)
    for pair in pairs:
        check_measure(pair)
    outputs, losses = drift(pairs, output_gaps, of_outputs), drift(pairs, loss_gaps, coarser)
    return Judgement(settings, pairs, outputs, losses, LIMIT / sqrt(seeds), ends)


def _broke(pair: Pair, what: str) -> bool:
    """Whether the candidate has a non-finite number where the reference has a finite one."""

    def numbers(run: Trace) -> Tensor:
        return run.losses if what == "losses" else torch.stack([run.probes[step] for step in run.probes if step > 0])

    return bool((numbers(pair.reference).isfinite() & ~numbers(pair.candidate).isfinite()).any())
