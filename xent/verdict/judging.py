"""Matched runs in, verdicts out: is a candidate's drift that of rounding?"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import sqrt
from typing import Any

import torch

from xent.recording.trace import learned
from xent.verdict.floor import Drift, bitwise_identical, drift, loss_gaps, output_gaps
from xent.verdict.matching import Pair, first_mismatch, without
from xent.verdict.measure import check_measure

# Decades above the floor that rounding does not explain over one seed; over n, a mean, the square root of n less.
LIMIT = 2.0  # benchmarks/verdict.py measures how often it is wrong


class Verdict(StrEnum):
    IDENTICAL = "bitwise identical"
    SAME = "same within rounding"
    COARSER = "coarser rounding"
    DIFFERENT = "different"
    OTHER_VALUES = "same learning, other values"
    NO_FLOOR = "no floor"
    NOTHING_LEARNED = "nothing learned"


@dataclass(frozen=True)
class Judgement:
    """What is found of a candidate over all its runs: those of other seeds and other nudges.

    Attributes:
        settings: what the candidate's runs share.
        pairs: the runs, each beside its reference.
        outputs: the drift of the probe's outputs: of what was learned.
        losses: the drift of the training losses: of what the loss says of it.
        limit: decades above the floor that rounding explains, over so many seeds.
        other_precision: the judgement of the same candidate in the other of float32 and float64.
    """

    settings: dict[str, Any]
    pairs: list[Pair]
    outputs: Drift
    losses: Drift
    limit: float
    other_precision: "Judgement | None" = None

    @cached_property
    def verdict(self) -> Verdict:
        if not any(learned(trace.losses) for pair in self.pairs for trace in (pair.candidate, pair.reference)):
            return Verdict.NOTHING_LEARNED  # and alike in that: it tells nothing of the loss
        if all(bitwise_identical(pair.candidate, pair.reference) for pair in self.pairs):
            return Verdict.IDENTICAL
        if self.outputs.margin is None:
            return Verdict.NO_FLOOR
        above_floor = self._above_floor(self.outputs)
        if above_floor and not self._shrinks("outputs"):
            return Verdict.DIFFERENT
        if self._above_floor(self.losses) and not self._shrinks("losses"):
            return Verdict.OTHER_VALUES
        return Verdict.COARSER if above_floor else Verdict.SAME

    def allowed(self, found: Drift) -> float:
        """Decades that outputs, or losses, may be above the floor: the limit, or as many as any nudged run is."""
        return max(self.limit, found.noise or 0.0)

    @property
    def left_floor(self) -> int | None:
        """The first probe step at which a candidate that is not the same left the floor."""
        found = {Verdict.DIFFERENT: self.outputs, Verdict.OTHER_VALUES: self.losses}.get(self.verdict)
        if found is None:
            return None
        noise = found.noise_above
        left = [step for step, above in found.above.items() if above > max(self.limit, noise[step])]
        return left[0] if left else max(found.above, key=lambda step: found.above[step])

    @property
    def first_mismatch(self) -> str:
        """What a run got that its reference did not, such as another batch; empty where all was the same."""
        others = (first_mismatch(pair.candidate, pair.reference) for pair in self.pairs)
        return next(filter(None, others), "")

    @property
    def coarseness(self) -> float:
        """How many times as coarsely as the reference the candidate rounds, by the first probe steps."""
        return 10**self.outputs.early

    @property
    def largest_loss_difference(self) -> float:
        """Between the training losses of a run and its reference, over all steps and runs; NaN if one is."""
        return (
            torch.stack([(pair.candidate.losses - pair.reference.losses).abs().max() for pair in self.pairs])
            .max()
            .item()
        )

    def _above_floor(self, found: Drift) -> bool:
        assert found.margin is not None
        return found.margin > self.allowed(found)

    def _shrinks(self, what: str) -> bool:
        """Whether what is above the floor shrinks with the precision, as rounding does and a mistake does not.

        In float64 coarse rounding is as many decades above the floor as in float32 at the first steps, before the runs
        part. A mistake is as large in both, so in float64 by up to nine decades further above the floor. What float32
        alone shows must stand out twice as far to be a mistake, or be no number: runs part there by chance.
        """
        if self.other_precision is None or any(_broke(pair, what) for pair in self.pairs):
            return False
        judgements = {each.settings["precision"]: each for each in (self, self.other_precision)}
        coarse, fine = (getattr(judgements[precision], what) for precision in ("float32", "float64"))
        rounding = max(0.0, coarse.early)
        explained = coarse.margin - rounding <= max(2 * judgements["float32"].limit, coarse.noise)
        return bool(explained and fine.margin - rounding <= max(judgements["float64"].limit, fine.noise))


def judge(pairs: Iterable[Pair]) -> list[Judgement]:
    """A judgement of each candidate: of its runs, which share all settings but `seed` and `nudge`."""
    candidates: dict[str, list[Pair]] = {}
    for pair in pairs:
        candidates.setdefault(without(pair.candidate, "seed", "nudge"), []).append(pair)
    judgements = [_judgement(each) for each in candidates.values()]
    judged = {(_but_precision(each), _precision(each)): each for each in judgements if each.outputs.floor}
    other = {"float32": "float64", "float64": "float32"}
    return [
        replace(each, other_precision=judged.get((_but_precision(each), other.get(_precision(each), "none"))))
        for each in judgements
    ]


def _precision(judgement: Judgement) -> str:
    """That of candidate and reference; nothing where it is what is compared, or the loss is in another."""
    pair = judgement.pairs[0]
    both = {str(trace.settings.get("precision")) for trace in (pair.candidate, pair.reference)}
    return both.pop() if len(both) == 1 and not has_own_loss_precision(pair.candidate.settings) else ""


def has_own_loss_precision(settings: dict[str, Any]) -> bool:
    """Whether the loss computes in another precision than the model."""
    return settings.get("loss_precision", precision := settings.get("precision")) != precision


def _judgement(pairs: list[Pair]) -> Judgement:
    settings = {key: v for key, v in pairs[0].candidate.settings.items() if key not in ("seed", "nudge")}
    seeds = len({without(pair.unnudged, "nudge") for pair in pairs})
    of_outputs = pairs[0].reference.first_outputs.dtype
    of_losses = getattr(torch, str(settings["loss_precision"])) if has_own_loss_precision(settings) else of_outputs
    coarser = max(of_outputs, of_losses, key=lambda dtype: torch.finfo(dtype).eps)
    for pair in pairs:
        check_measure(pair)
    outputs, losses = drift(pairs, output_gaps, of_outputs), drift(pairs, loss_gaps, coarser)
    return Judgement(settings, pairs, outputs, losses, LIMIT / sqrt(seeds))


def _but_precision(judgement: Judgement) -> str:
    return without(judgement.pairs[0].candidate, "seed", "nudge", "precision")


def _broke(pair: Pair, what: str) -> bool:
    """Whether the candidate has a number that is none where the reference has one."""
    runs = pair.candidate, pair.reference
    ours, theirs = (
        run.losses if what == "losses" else torch.stack([outputs for step, outputs in run.probes.items() if step > 0])
        for run in runs
    )
    return bool((theirs.isfinite() & ~ours.isfinite()).any())
