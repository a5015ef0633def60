"""Why a proof failed, in a few aligned lines."""

from collections.abc import Sequence
from math import isclose, isfinite, isnan, log, log10
from typing import NamedTuple

import torch
from torch import Tensor

from xent.training.trials import LARGE, MASKED, OF_TARGETS, ONE_ROW, STRIDED, UNDERFLOWING, Outcomes, errors, in_words
from xent.verdict.judging import Judgement, Verdict

HEADLINES = {
    Verdict.DIFFERENT: "training is different from training with the reference",
    Verdict.OTHER_VALUES: "the loss has other values, though training is the same as with the reference",
}
HINTS = {
    MASKED: "0 times infinity, or infinity minus infinity? pick the class by gather() or nll_loss(), not by a product",
    **dict.fromkeys(STRIDED, "a kernel that ignores strides? give it .contiguous() tensors"),
    ONE_ROW: "a squeeze() or a broadcast that one row alone meets?",
    OF_TARGETS: "a detach() of the targets? of JAX, give argnums=(0, 1)",
}


class Evidence(NamedTuple):
    """Both losses on the same logits, at the step where they differ most, up to the step that left the floor.

    Attributes:
        step: that step.
        value: of the candidate.
        expected_value: of the reference.
        gradient: the candidate's, with respect to the logits. It and all that follows is on the CPU.
        expected_gradient: the reference's.
        probabilities: the softmax of the logits.
        target: class indices `[batch, 1, *places]`; None if targets are probabilities.
    """

    step: int
    value: float
    expected_value: float
    gradient: Tensor
    expected_gradient: Tensor
    probabilities: Tensor
    target: Tensor | None

    @property
    def is_off_by_rounding(self) -> bool:
        """Whether the difference may be the rounding of a narrower type than float64, in which the value is off too."""
        off = (self.gradient - self.expected_gradient).norm() / self.expected_gradient.norm()
        size = abs(self.expected_value)
        return 1e-12 * size < abs(self.value - self.expected_value) < 1e-2 * size and bool(off < 1e-2)


def explanation(
    judgement: Judgement, advice: str, evidence: Evidence | None = None, begins: Sequence[str] = (), hint: str = ""
) -> str:
    """The message of a failed proof: how far above the floor, from which step on, and a likely cause.

    Args:
        judgement: one that is not the same.
        advice: what to try if nothing was proved.
        evidence: for a proof of two losses.
        begins: lines on where it begins.
        hint: a likely cause, in place of one that the evidence gives.
    """
    step, mismatch = judgement.left_floor, judgement.first_mismatch
    if judgement.verdict is Verdict.OTHER_END:
        ends, expected = (", ".join(map(str, sorted(steps))) for steps in judgement.ends)
        return f"training ends after another number of steps: {ends}, expected {expected}"
    if step is None:
        return f"nothing was proved: {judgement.verdict}\n  try {advice}"
    outputs, losses, pair = judgement.outputs, judgement.losses, judgement.pairs[0]
    decades, limit = (
        judgement.excess if judgement.verdict is Verdict.DIFFERENT else (losses.margin, judgement.allowed(losses))
    )
    rows = [("decades above the floor", f"{decades:.1f}, where {limit:.1f} are rounding")]
    rows += [("left the floor at step", f"{step}")]
    if evidence:
        ours, theirs = evidence.gradient.double(), evidence.expected_gradient.double()
        distances = (ours - theirs).abs().nan_to_num(torch.inf)
        place = tuple(int(i) for i in torch.unravel_index(distances.argmax(), distances.shape))
        most = "" if evidence.step == step else ", where they differ most"
        rows += _both(f"loss at step {evidence.step}{most}", evidence.value, evidence.expected_value)
        rows += _both(f"gradient of logit {list(place)}", ours[place].item(), theirs[place].item())
        rows += [("error of the whole gradient", _relative((ours - theirs).norm().item(), theirs.norm().item()))]
    else:
        losses_there = (run.losses[step - 1].item() for run in (pair.candidate, pair.reference))
        rows += _both(f"loss at step {step}", *losses_there)
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
    hint = hint or (_hint(evidence) if evidence else "")
    if mismatch:
        hint = f"it got {mismatch} than the reference: draw weights and batches from the seed"
    lines = [HEADLINES[judgement.verdict], *(f"{name:<{width}}  {value}" for name, value in rows), hint]
    return "\n  ".join(filter(None, lines))


def explanation_of_trials(outcomes: Outcomes) -> str:
    """The message on a loss that differs from the reference in trials alone.

    Args:
        outcomes: those that differ.
    """
    rows = {name: in_words(*both) for name, both in outcomes.items()}
    width = max(map(len, rows))
    lines = ["training is the same as with the reference, but the loss differs from it on"]
    return "\n  ".join([*lines, *(f"{name:<{width}}  {row}" for name, row in rows.items()), *_hints(outcomes)])


def _both(name: str, value: float, expected: float) -> list[tuple[str, str]]:
    off = _relative(abs(value - expected), abs(expected))
    return [(name, f"{value:.17g}"), ("expected", f"{expected:.17g}"), ("relative error", off)]


def _relative(distance: float, size: float) -> str:
    return f"{distance / size:.1e}" if size else "none" if distance == 0 else "infinite"


def _hints(outcomes: Outcomes) -> list[str]:
    """A likely cause, and what to try, if there is one."""
    ours = {name: outcome for name, (outcome, _) in outcomes.items()}
    if {LARGE, ONE_ROW, *STRIDED} <= {*ours}:  # it differs everywhere
        return []
    if UNDERFLOWING in ours and not isfinite(ours[UNDERFLOWING].value):
        return ["a probability underflows to 0, and its logarithm is -inf: use log_softmax, or logsumexp"]
    if LARGE in ours and not isfinite(ours[LARGE].value):
        return ["exp overflows: subtract the largest logit of a row before it"]
    if LARGE in ours:
        of_value, of_gradient = errors(*outcomes[LARGE])
        if of_value < 1e-3 and isnan(of_gradient):
            return ["where() passes on the NaN of a branch that it does not take: mask what goes into that branch"]
        return ["a clamp, or a detach(), of large logits or of small probabilities?"]
    if MASKED in ours and not isnan(ours[MASKED].value):
        return []
    return [hint for name, hint in HINTS.items() if name in ours and (name != ONE_ROW or len(ours) == 1)][:1]


def _hint(evidence: Evidence) -> str:
    """A likely cause, and what to try."""
    ours, theirs = evidence.gradient.double(), evidence.expected_gradient.double()
    off, eps = (ours - theirs).norm(), torch.finfo(evidence.gradient.dtype).eps
    factor, rounding = (ours * theirs).sum() / theirs.square().sum(), eps * theirs.norm()
    if (ours - factor * theirs).norm() < max(1e-3 * off, rounding) and off > 8 * rounding:
        batch, classes = theirs.shape[:2]
        causes = {1 / classes: "a mean over the classes too?", batch: "a sum in place of the mean?"}
        causes |= {1 / log(2): "a logarithm to base 2?", -1.0: "a sign?"}
        likely = [cause for value, cause in causes.items() if isclose(value, factor, rel_tol=max(1e-3, eps))]
        digits = min(10, -round(log10(eps)))
        cause = (*likely, "a constant factor, or another denominator of the mean?")[0]
        return f"the gradient is {factor:.{digits}g} times the reference's: {cause}"
    if evidence.target is not None:
        p, target = evidence.probabilities.double(), evidence.target
        factors = ((ours * theirs).sum(1, keepdim=True) / theirs.square().sum(1, keepdim=True)).nan_to_num(1)
        if (ours - factors * theirs).norm() < 1e-3 * off:
            return _hint_of_rows(factors, p.gather(1, target))
        largest = torch.zeros_like(p).scatter(1, p.argmax(1, keepdim=True), 1)
        for direction in (p, p - largest):  # whether the largest logit is detached, or not
            share = ((ours - theirs) * direction).sum(1, keepdim=True) / direction.square().sum(1, keepdim=True)
            if (ours - theirs - share * direction).norm() < 1e-3 * off:
                return "as of log(sum of exponentials + eps): an eps inside a logarithm?"
    stopped = (ours == 0) & (theirs != 0)
    if stopped.any() and torch.where(stopped, ours, theirs).sub(ours).norm() < 0.5 * off:
        return f"no gradient at {int(stopped.sum())} of {ours.numel()} logits, where the reference has one: a clamp?"
    return ""


def _hint_of_rows(factors: Tensor, probability: Tensor) -> str:
    """A likely cause of a gradient that is the reference's times a factor of its own in each row.

    That of `-log(p + eps)` is `p / (p + eps)` times that of `-log(p)`.
    """
    clamped = factors == 0
    if clamped.any() and probability[clamped].max() < probability[~clamped].min():
        largest = probability[clamped].max()
        return f"no gradient in rows whose target has a small probability, up to {largest:.1g}: a clamp before log?"
    off = (1 - factors).abs()
    eps = (probability * (1 / factors - 1))[off > 0.1 * off.max()]
    if eps.min() > 0 and eps.max() < 1.1 * eps.min():
        return f"as of -log(p + {eps.mean():.1g}): an eps inside a logarithm?"
    return ""
