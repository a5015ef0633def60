"""Why a proof failed, in a few aligned lines."""

from math import inf, isclose, log, log10
from typing import NamedTuple

import torch
from torch import Tensor

from xent.verdict.judging import Judgement, Verdict

HEADLINES = {
    Verdict.DIFFERENT: "training is different from training with the reference",
    Verdict.OTHER_VALUES: "the loss has other values, though training is the same as with the reference",
}


class Evidence(NamedTuple):
    """Both losses on the same logits of one step: where theirs differ most, up to the step that left the floor."""

    step: int
    value: float
    expected_value: float
    gradient: Tensor  # of the logits, on the CPU
    expected_gradient: Tensor


def explanation(
    judgement: Judgement, advice: str, evidence: Evidence | None = None, dtype: torch.dtype = torch.float64
) -> str:
    """What a person reads of a judgement that is not the same.

    Args:
        advice: what to try if it proves nothing.
        evidence: of two losses, and the type of the logits that they get.
    """
    if judgement.left_floor is None:
        return f"nothing was proved: {judgement.verdict}\n  try {advice}"
    found = judgement.outputs if judgement.verdict is Verdict.DIFFERENT else judgement.losses
    rows = [
        ("decades above the floor", f"{found.margin:.1f}, where {judgement.limit:.1f} are rounding"),
        ("left the floor at step", str(judgement.left_floor)),
        *(_of_losses(evidence) if evidence else _of_trainings(judgement, judgement.left_floor)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [HEADLINES[judgement.verdict], *(f"  {name:<{width}}  {value}" for name, value in rows)]
    hints = _hints(evidence, dtype) if evidence else _hints_of_trainings(judgement)
    return "\n".join(lines + [f"  {hint}" for hint in hints])


def _of_losses(evidence: Evidence) -> list[tuple[str, str]]:
    errors = (evidence.gradient - evidence.expected_gradient).abs().nan_to_num(torch.inf)
    place = tuple(int(i) for i in torch.unravel_index(errors.argmax(), errors.shape))
    return [
        (f"loss at step {evidence.step}", f"{evidence.value:.17g}"),
        ("expected", f"{evidence.expected_value:.17g}"),
        (f"gradient of logit {list(place)}", f"{evidence.gradient[place]:.17g}"),
        ("expected", f"{evidence.expected_gradient[place]:.17g}"),
    ]


def _of_trainings(judgement: Judgement, step: int) -> list[tuple[str, str]]:
    pair = judgement.pairs[0]
    return [
        (f"loss at step {step}", f"{pair.candidate.losses[step - 1]:.17g}"),
        ("expected", f"{pair.reference.losses[step - 1]:.17g}"),
        ("distance of the outputs there", f"{judgement.outputs.gap[step]:.1e}"),
        ("of those of nudged references", f"{judgement.outputs.floor[step]:.1e}"),
    ]


def _hints_of_trainings(judgement: Judgement) -> list[str]:
    other = judgement.first_mismatch
    return [f"it got {other} than the reference: draw weights and batches from the seed"] if other else []


def _hints(evidence: Evidence, dtype: torch.dtype) -> list[str]:
    """What it may be, and what to try."""
    ours, theirs = evidence.gradient.double(), evidence.expected_gradient.double()
    norm = torch.linalg.vector_norm
    factor, error = (ours * theirs).sum() / theirs.square().sum(), norm(ours - theirs) / norm(theirs)
    if norm(ours - factor * theirs) < 1e-3 * norm(ours - theirs):
        batch, classes = theirs.shape[:2]
        causes = {1 / classes: "a mean over the classes too?", batch: "a sum in place of the mean?"}
        causes |= {1 / log(2): "a logarithm to base 2?", -1.0: "a sign?"}
        cause = next(
            (text for value, text in causes.items() if isclose(value, factor, rel_tol=1e-3)), "a constant factor"
        )
        return [f"the gradient is {factor:.10g} times the reference's: {cause}"]
    lower = seeming_precision(float(error)) if dtype == torch.float64 else None
    return [f"it seems to compute in {str(lower)[6:]}: judge it with dtype={lower}"] if lower else []


def seeming_precision(error: float) -> torch.dtype | None:
    """The precision, lower than float64, whose rounding is about as large as this relative error."""
    # The rounding of a type is about a quarter of its epsilon; of types less than a decade off, the nearest.
    off = {
        lower: abs(log10(4 * error / torch.finfo(lower).eps)) if 0 < error < inf else inf
        for lower in (torch.float32, torch.float16, torch.bfloat16)
    }
    nearest = min(off, key=lambda lower: off[lower])
    return nearest if off[nearest] < 1 else None
