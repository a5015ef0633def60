"""Cross entropy with its gradient in closed form: softmax minus target."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from xent.losses import scratch
from xent.losses.arguments import Options, checked, class_dim, ignored_targets, is_autocast, out_of_range
from xent.losses.scratch import as_index, batch_loss, of_targets, widened
from xent.losses.transforms import is_transformed, must_keep_saved


def fused_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`xent.cross_entropy`, of the same arguments and values, with fewer passes over the logits.

    The derivative of the surprise `log(sum_j exp(z_j)) - z_t` with respect to the logit `z_c` is `p_c - [c = t]`: all
    that it needs is at hand where the surprise is computed. So the forward pass makes the gradient too, in the one
    tensor of the size of the logits that it needs anyway, and the backward pass multiplies it by the gradient of what
    follows. It is an output of the forward pass, so that it can be differentiated again. torch.compile, which fuses
    operations itself, torch.func and forward mode see the formula of xent.losses.scratch.
    """
    if has_torch_function_variadic(input, target, weight):  # torch.fx, say
        given = ignore_index, reduction, label_smoothing
        return handle_torch_function(fused_cross_entropy, (input, target, weight), input, target, weight, *given)
    if is_transformed(input, target, weight):
        return scratch.cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    options = checked(input, target, Options(weight, ignore_index, reduction, label_smoothing))
    if target.is_floating_point() or label_smoothing > 0:
        return batch_loss(_LogProbabilities.apply, input, target, options)
    wants_gradient = torch.is_grad_enabled() and input.requires_grad
    loss: Tensor = _Surprise.apply(input, as_index(target, input), options, wants_gradient)[0]
    return loss if loss.dtype == input.dtype or is_autocast(input) else loss.to(input.dtype)


class _Surprise(torch.autograd.Function):
    """The surprise at class indices, weighted and reduced, and the gradient of each row's, `p_c - [c = t]`."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, options: Options, wants_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        logits, dim = widened(input.detach()), class_dim(input)  # detached, operations cost less
        ignored = ignored_targets(target, options.ignore_index)
        index = target if ignored is None else target.masked_fill(ignored, 0)  # any class will do, its loss is not used
        gradient = torch.empty_like(logits) if wants_gradient else None
        try:
            weights = _weights(index, ignored, options, logits.dtype)
            losses = _rows(logits, index.unsqueeze(dim), gradient, dim).squeeze(dim)
        except (IndexError, RuntimeError) as error:
            raise out_of_range(target, options.ignore_index, logits.shape[dim]) or error from None
        total: Tensor | int = 1
        if options.reduction == "mean":
            total = max(target.numel(), 1) if weights is None else weights.sum()
        if gradient is not None and gradient.dtype != input.dtype and not is_autocast(input):
            gradient = gradient.mul_(_scale(input)).to(input.dtype)
        ctx.save_for_backward(gradient, index, ignored, None if weights is None else weights / total)
        ctx.dim, ctx.factor = dim, 1 / total if weights is None else None
        ctx.set_materialize_grads(False)
        if weights is not None:
            losses *= weights
        if ignored is not None:
            losses.masked_fill_(ignored, 0)
        if options.reduction == "none":
            return losses, gradient
        return losses.mean() if weights is None and options.reduction == "mean" else losses.sum() / total, gradient

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor | None, by_gradient: Tensor | None) -> tuple[Any, ...]:
        gradient, index, ignored, factor = ctx.saved_tensors
        gradient = gradient if torch.is_grad_enabled() else gradient.detach()
        dim, scale, found = ctx.dim, _scale(gradient), None
        if by_gradient is not None:  # of a gradient that was differentiated again
            index, gradient_of_row = index.unsqueeze(dim), gradient / scale
            p = gradient_of_row + torch.zeros_like(gradient).scatter(dim, index, 1)
            by_gradient = by_gradient - by_gradient.gather(dim, index)  # which changes nothing but cancellation
            found = p * scale * (by_gradient - (gradient_of_row * by_gradient).sum(dim, keepdim=True))
        if by_loss is not None:
            by_row = by_loss * (ctx.factor if factor is None else factor) / scale
            if ignored is not None:
                by_row = by_row.masked_fill(ignored, 0)  # also where it is infinite, or all are and 0 / 0 is NaN
            by_row = by_row.unsqueeze(dim) if by_row.ndim > 0 else by_row
            kept = must_keep_saved(by_loss)
            product = (gradient * by_row).to(gradient.dtype) if kept else gradient.mul_(by_row)
            found = product if found is None else found + product
        return found, None, None, None


def _scale(tensor: Tensor) -> float:
    """By what probabilities are multiplied before they get the type of a tensor: float16 has no number below 6e-8."""
    return 2.0**14 if tensor.dtype == torch.float16 else 1.0


def _weights(index: Tensor, ignored: Tensor | None, options: Options, dtype: torch.dtype) -> Tensor | None:
    """Of each target, 0 of those that are ignored; None if all count alike."""
    if options.weight is None:
        return None if ignored is None else ignored.logical_not().to(dtype)
    weights = of_targets(options.weight.to(dtype), index)
    return weights if ignored is None else weights.masked_fill(ignored, 0)


def _rows(logits: Tensor, index: Tensor, gradient: Tensor | None, dim: int) -> Tensor:
    """The surprise of each row; fills `gradient` with `p_c - [c = t]`.

    Of a row's terms `exp(z_j - m)` the target's own is kept apart from the sum of the others: where it is the largest,
    1, they may be tiny, and log1p keeps their digits, as does `p_t - 1` written as `-sum_{j != t} p_j`.
    """
    terms = torch.sub(logits, logits.amax(dim, keepdim=True), out=gradient)
    at_target = terms.gather(dim, index)
    others = terms.exp_().scatter_(dim, index, 0).sum(dim, keepdim=True)
    total_less_1 = others + at_target.expm1()
    if gradient is not None:
        total = total_less_1 + 1
        terms.div_(total).scatter_(dim, index, -others / total)
    return torch.log1p(total_less_1) - at_target


class _LogProbabilities(torch.autograd.Function):
    """`log p_c`, whose derivative by `z_j` is `[c = j] - p_j`, so that it needs nothing but itself again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, dim: int) -> Tensor:
        log_p = scratch.log_probabilities(logits, dim)
        ctx.dim = dim
        ctx.save_for_backward(log_p)
        return log_p

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (log_p,) = ctx.saved_tensors
        return grad - log_p.exp() * grad.sum(ctx.dim, keepdim=True), None


class FusedCrossEntropyLoss(nn.CrossEntropyLoss):
    """`fused_cross_entropy` as a module: `torch.nn.CrossEntropyLoss` in all but the computation."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return fused_cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)
