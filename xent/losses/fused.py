"""Cross entropy with its gradient in closed form: softmax minus target."""

from typing import Any

import torch
from torch import Tensor, nn

from xent.losses import scratch
from xent.losses.arguments import Options, check, class_dim, ignored_targets, is_autocast, out_of_range
from xent.losses.scratch import as_index, batch_loss, log_probabilities, widened
from xent.losses.transforms import graph_is_kept, is_batch_of_gradients, is_transformed, is_under_torch_func


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
    follows. A second derivative is autograd's, of the formula of xent.losses.scratch, which also serves torch.compile,
    which fuses operations itself, torch.func and forward mode.
    """
    if is_transformed(input, target):
        return scratch.cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    options = Options(weight, ignore_index, reduction, label_smoothing)
    check(input, target, options)
    if target.is_floating_point() or label_smoothing > 0:
        return batch_loss(_ExpectedSurprise.apply, input, target, options)
    logits = widened(input)
    wants_gradient = torch.is_grad_enabled() and input.requires_grad
    loss: Tensor = _Surprise.apply(logits, as_index(target, input), options, wants_gradient)
    return loss if loss.dtype == input.dtype or is_autocast(input) else loss.to(input.dtype)


class _Surprise(torch.autograd.Function):
    """The surprise at class indices, weighted and reduced, and on the way its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, options: Options, wants_gradient: bool) -> Tensor:
        ctx.save_for_backward(logits, target, options.weight)
        ctx.options = options._replace(weight=None)
        logits, dim = logits.detach(), class_dim(logits)  # detached, operations cost less
        ignored = ignored_targets(target, options.ignore_index)
        index = target if ignored is None else target.masked_fill(ignored, 0)  # any class will do, its loss is not used
        weights = _weights(index, ignored, options, logits.dtype)
        total: Tensor | int = 1
        if options.reduction == "mean":
            total = max(target.numel(), 1) if weights is None else weights.sum()
        factor: Any = 1 / total if weights is None else (weights / total).unsqueeze(dim)  # of the gradient of each row
        if ignored is not None:
            factor = factor.masked_fill(ignored.unsqueeze(dim), 0)  # also where all are, and 0 / 0 is NaN
        ctx.gradient = torch.empty_like(logits) if wants_gradient else None
        try:
            losses = _rows(logits, index.unsqueeze(dim), factor, ctx.gradient, dim).squeeze(dim)
        except RuntimeError as error:
            raise out_of_range(target, options.ignore_index, logits.shape[dim]) or error from None
        if weights is not None:
            losses *= weights
        if ignored is not None:
            losses.masked_fill_(ignored, 0)
        if options.reduction == "none":
            return losses
        return losses.mean() if weights is None and options.reduction == "mean" else losses.sum() / total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, target, weight = ctx.saved_tensors
        by_row = grad.unsqueeze(class_dim(logits)) if ctx.options.reduction == "none" else grad
        if torch.is_grad_enabled():  # asked for with create_graph: in operations that can be differentiated again
            loss = scratch.cross_entropy(logits, target, *ctx.options._replace(weight=weight))
            (gradient,) = torch.autograd.grad(loss, logits, grad, create_graph=True)
        elif graph_is_kept() or is_batch_of_gradients(grad) or is_under_torch_func():
            gradient = ctx.gradient * by_row
        else:
            gradient = ctx.gradient.mul_(by_row)
            del ctx.gradient
        return gradient, None, None, None


def _weights(index: Tensor, ignored: Tensor | None, options: Options, dtype: torch.dtype) -> Tensor | None:
    """Of each target, 0 of those that are ignored; None if all count alike."""
    if options.weight is None:
        return None if ignored is None else ignored.logical_not().to(dtype)
    weights = options.weight.to(dtype)[index]
    return weights if ignored is None else weights.masked_fill(ignored, 0)


def _rows(logits: Tensor, index: Tensor, factor: Tensor | float, gradient: Tensor | None, dim: int) -> Tensor:
    """The surprise of each row; fills `gradient` with `factor (p_c - [c = t])`.

    Of a row's terms `exp(z_j - m)` the target's own is kept apart from the sum of the others: where it is the largest,
    1, they may be tiny, and log1p keeps their digits, as does `p_t - 1` written as `-sum_{j != t} p_j`.
    """
    terms = torch.sub(logits, logits.amax(dim, keepdim=True), out=gradient)
    at_target = terms.gather(dim, index)
    others = terms.exp_().scatter_(dim, index, 0).sum(dim, keepdim=True)
    total_less_1 = others + at_target.expm1()
    if gradient is not None:
        of_term = factor / (total_less_1 + 1)
        terms.mul_(of_term).scatter_(dim, index, -others * of_term)
    return torch.log1p(total_less_1) - at_target


class _ExpectedSurprise(torch.autograd.Function):
    """`-sum_c q_c log p_c`, linear in `q`, whose derivative by `z_c` is `p_c sum_j q_j - q_c`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, distribution: Tensor, dim: int) -> Tensor:
        log_p = log_probabilities(logits, dim)
        ctx.dim = dim
        ctx.save_for_backward(logits, distribution, log_p)
        return -(distribution * log_p).sum(dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        logits, distribution, log_p = ctx.saved_tensors
        grad = grad.unsqueeze(ctx.dim)
        if torch.is_grad_enabled():
            log_p = log_probabilities(logits, ctx.dim)
        by_logits = grad * (log_p.exp() * distribution.sum(ctx.dim, keepdim=True) - distribution)
        return by_logits, -grad * log_p if ctx.needs_input_grad[1] else None, None


class FusedCrossEntropyLoss(nn.CrossEntropyLoss):
    """`fused_cross_entropy` as a module: `torch.nn.CrossEntropyLoss` in all but the computation."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return fused_cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)
