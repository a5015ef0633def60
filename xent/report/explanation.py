"""Why a proof failed, in a few aligned lines."""

from collections.abc import Sequence
from math import isclose, log
from typing import NamedTuple

import torch
from torch import Tensor

from xent.verdict.judging import Judgement, Verdict

HEADLINES = {
    Verdict.DIFFERENT: "training is different from training with the reference",
    Verdict.OTHER_VALUES: "the loss has other values, though training is the same as with the reference",
}


class Evidence(NamedTuple):
    """Both losses on the same logits, at the step where they differ most, up to the step that left the floor.

    Attributes:
        step: that step.
        value: of the candidate.
        expected_value: of the reference.
        gradient: the candidate's, with respect to the logits, on the CPU.
        expected_gradient: the reference's.
    """

    step: int
    value: float
    expected_value: float
    gradient: Tensor
    expected_gradient: Tensor


def explanation(judgement: Judgement, advice: str, evidence: Evidence | None = None, begins: Sequence[str] = ()) -> str:
    """The message of a failed proof: how far above the floor, from which step on, and a likely cause.

    Args:
        judgement: one that is not the same.
        advice: what to try if nothing was proved.
        evidence: for a proof of two losses.
        begins: lines on where it begins.
    """
    step, mismatch = judgement.left_floor, judgement.first_mismatch
    if step is None:
        return f"nothing was proved: {judgement.verdict}\n  try {advice}"
    outputs, losses, pair = judgement.outputs, judgement.losses, judgement.pairs[0]
    decades, limit = (
        judgement.excess if judgement.verdict is Verdict.DIFFERENT else (losses.margin, judgement.allowed(losses))
    )
    rows = [("decades above the floor", f"{decades:.1f}, where {limit:.1f} are rounding")]
    rows += [("left the floor at step", f"{step}")]
    if evidence:
        errors = (evidence.gradient - evidence.expected_gradient).abs().nan_to_num(torch.inf)
        place = tuple(int(i) for i in torch.unravel_index(errors.argmax(), errors.shape))
        rows += _both(f"loss at step {evidence.step}", evidence.value, evidence.expected_value)
        rows += _both(f"gradient of logit {list(place)}", evidence.gradient[place], evidence.expected_gradient[place])
    else:
        rows += _both(f"loss at step {step}", pair.candidate.losses[step - 1], pair.reference.losses[step - 1])
        octave = next(at for at in outputs.floor if at >= step)  # a late probe may be between two
        where = "there" if octave == step else f"at step {octave}"
        rows += [(f"distance of the outputs {where}", f"{outputs.gap[octave]:.1e}")]
        rows += [("of those of nudged references", f"{outputs.floor[octave]:.1e}")]
    if judgement.other_precision:
        rows += [("precision", judgement.settings["precision"])]
    if judgement.casts:
        rows += [("casts seen through", ", ".join(judgement.casts))]
    rows += [("" if number else "where", line) for number, line in enumerate(begins)]
    width = max(len(name) for name, _ in rows)
    hint = _hint(evidence) if evidence else ""
    if mismatch:
        hint = f"it got {mismatch} than the reference: draw weights and batches from the seed"
    lines = [HEADLINES[judgement.verdict], *(f"{name:<{width}}  {value}" for name, value in rows), hint]
    return "\n  ".join(filter(None, lines))


def _both(name: str, value: Tensor | float, expected: Tensor | float) -> list[tuple[str, str]]:
    return [(name, f"{value:.17g}"), ("expected", f"{expected:.17g}")]


def _hint(evidence: Evidence) -> str:
    """A likely cause, and what to try."""
    ours, theirs = evidence.gradient.double(), evidence.expected_gradient.double()
    factor = (ours * theirs).sum() / theirs.square().sum()
    if (ours - factor * theirs).norm() < 1e-3 * (ours - theirs).norm():
        batch, classes = theirs.shape[:2]
        causes = {1 / classes: "a mean over the classes too?", batch: "a sum in place of the mean?"}
        causes |= {1 / log(2): "a logarithm to base 2?", -1.0: "a sign?"}
        likely = [cause for value, cause in causes.items() if isclose(value, factor, rel_tol=1e-3)]
        return f"the gradient is {factor:.10g} times the reference's: {(*likely, 'a constant factor')[0]}"
    return ""
