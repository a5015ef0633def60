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
NOTHING_PROVED = (
    "nothing was proved: {}\n  try fewer classes, fewer ignored targets, or weights that are closer to each other"
)


class Evidence(NamedTuple):
    """Both losses on the same logits of one step: where theirs differ most, up to the step that left the floor."""

    step: int
    value: float
    expected_value: float
    gradient: Tensor  # of the logits
    expected_gradient: Tensor


def explanation(judgement: Judgement, evidence: Evidence | None, dtype: torch.dtype) -> str:
    """What a person reads of a judgement that is not the same."""
    if evidence is None:
        return NOTHING_PROVED.format(judgement.verdict)
    different = judgement.verdict is Verdict.DIFFERENT
    found = judgement.outputs if different else judgement.losses
    errors = (evidence.gradient - evidence.expected_gradient).abs().nan_to_num(torch.inf)
    place = tuple(int(i) for i in torch.unravel_index(errors.argmax(), errors.shape))
    rows = [
        ("decades above the floor", f"{found.margin:.1f}, where {judgement.limit:.1f} are rounding"),
        ("left the floor at step", str(judgement.left_floor)),
        (f"loss at step {evidence.step}", f"{evidence.value:.17g}"),
        ("expected", f"{evidence.expected_value:.17g}"),
        (f"gradient of logit {list(place)}", f"{evidence.gradient[place]:.17g}"),
        ("expected", f"{evidence.expected_gradient[place]:.17g}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [HEADLINES[judgement.verdict], *(f"  {name:<{width}}  {value}" for name, value in rows)]
    return "\n".join(lines + [f"  {hint}" for hint in _hints(evidence, dtype)])


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
