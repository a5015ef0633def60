"""Cross entropy with its gradient in closed form: softmax minus target."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional

from xent.losses import scratch
from xent.losses.arguments import check_arguments, class_dim, is_autocast
from xent.losses.scratch import batch_loss, class_indices, result_type, widened

torch.fx.wrap("fused_cross_entropy")  # symbolic tracing sees one call, as with PyTorch's


def fused_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy with the gradient computed in the forward pass: fewer passes over the logits.

    Arguments, values and errors are those of `xent.cross_entropy`.

    The surprise `log(sum_j exp(z_j)) - z_t` has the derivative `p_c - [c = t]` with respect to the logit `z_c`. All
    that the derivative needs is at hand where the surprise is computed. So the forward pass computes the gradient too,
    in the one tensor of the size of the logits that it needs anyway. The backward pass multiplies it by the incoming
    gradient. The gradient is an output of the forward pass, so that it can be differentiated again.

    xent.losses.scratch takes over in four cases: torch.compile, which fuses operations itself; torch.func; forward
    mode; and DTensors, which are not to be written to in place.
    """
    if _is_traced_or_split(input):
        return scratch.cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    ignore_index, reduction = check_arguments(input, target, weight, ignore_index, reduction, label_smoothing)
    try:
        if target.is_floating_point() or label_smoothing > 0:
            log_p: Any = _LogProbabilities.apply
            return batch_loss(log_p, input, target, weight, ignore_index, reduction, label_smoothing)
        loss = _Surprise.apply(input, target, weight, ignore_index, reduction)[0]
        return loss.to(result_type(input, target, weight))
    except (IndexError, RuntimeError):  # a class out of range
        functional.cross_entropy(input, target, weight, ignore_index=ignore_index)  # raises PyTorch's error
        raise


def _is_traced_or_split(input: Tensor) -> bool:
    """Whether torch.compile, torch.func or forward mode is at work, or the input is a DTensor.

    PyTorch has only a private function to detect torch.func. A Function with `setup_context`, unlike this one, would
    support torch.func, but adds 20 us to a call: 50 % for 128 x 10.
    """
    func, forward_mode = torch._C._are_functorch_transforms_active(), unpack_dual(input).tangent is not None
    return torch.compiler.is_compiling() or func or forward_mode or hasattr(input, "placements")


class _Surprise(torch.autograd.Function):
    """The surprise at class indices, weighted and reduced, and the gradient of each row, `p_c - [c = t]`."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
    ) -> tuple[Tensor, Tensor]:
        """Compute the surprise and the softmax of each row from its terms `exp(z_j - m)`, with `m = max_j z_j`.

        The target's term is kept apart from the sum of the others. Where it is the largest, 1, the others may be tiny:
        log1p keeps their digits, and so does `p_t - 1` written as `-sum_{j != t} p_j`.
        """
        logits, dim = widened(input.detach()), class_dim(input)  # operations on a detached tensor cost less
        index, ignored, weights = class_indices(input, target, weight, ignore_index)
        terms = logits - logits.amax(dim, keepdim=True)
        at_target = terms.gather(dim, index)
        others = terms.exp_().scatter_(dim, index, 0).sum(dim, keepdim=True)
        total_less_1 = others + at_target.expm1()
        total = total_less_1 + 1
        gradient = terms.div_(total).scatter_(dim, index, -others / total)
        if gradient.dtype != input.dtype and not is_autocast(input):
            gradient = gradient.mul_(_scale(input)).to(input.dtype)
        losses = torch.log1p(total_less_1) - at_target
        if weights is not None:
            losses *= weights
        losses.masked_fill_(ignored, 0)
        counts = ignored.logical_not() if weights is None else weights
        divisor = counts.sum(dtype=logits.dtype) if reduction == "mean" else None
        loss = losses.squeeze(dim) if reduction == "none" else losses.sum()
        loss = loss if divisor is None else loss / divisor
        ctx.dim, ctx.reduction = dim, reduction
        ctx.save_for_backward(gradient, index, ignored, weights, divisor)
        ctx.set_materialize_grads(False)
        return loss, gradient

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, grad_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, index, ignored, weights, divisor = ctx.saved_tensors
        result = None
        if grad_gradient is not None:  # the gradient was differentiated again
            result = _derivative_of_gradient(gradient, index, grad_gradient, ctx.dim)
        if grad_loss is not None:
            grad_rows = grad_loss.unsqueeze(ctx.dim) if ctx.reduction == "none" else grad_loss
            grad_rows = grad_rows if divisor is None else grad_rows / divisor
            grad_rows = grad_rows if weights is None else grad_rows * weights
            grad_rows = grad_rows if _scale(gradient) == 1 else grad_rows / _scale(gradient)
            product = _product(gradient, grad_rows.masked_fill(ignored, 0))  # 0, even if it is infinite or NaN
            result = product if result is None else result + product
        return result, None, None, None, None


def _derivative_of_gradient(gradient: Tensor, index: Tensor, direction: Tensor, dim: int) -> Tensor:
    """Hessian-vector product of the surprise, `p_c (d_c - sum_j p_j d_j)` along `d`. The Hessian is symmetric."""
    of_row = gradient / _scale(gradient)
    p = of_row + torch.zeros_like(gradient).scatter(dim, index, 1)
    direction = direction - direction.gather(dim, index)  # changes only the rounding: less cancels
    return p * _scale(gradient) * (direction - (of_row * direction).sum(dim, keepdim=True))


def _product(gradient: Tensor, grad_rows: Tensor) -> Tensor:
    """Multiply the gradient of each row by a number, in place if nobody will need the gradient again.

    PyTorch has only a private function to tell whether it may be needed again (retain_graph). Without it every backward
    pass would take a second tensor of the size of the logits, and 50 % more time for 1024 x 1000.
    """
    is_recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if not is_recorded and not torch._C._autograd._get_current_graph_task_keep_graph():
        with suppress(RuntimeError):  # batched gradients (is_grads_batched) do not fit
            return gradient.detach().mul_(grad_rows)
    return (gradient * grad_rows).to(gradient.dtype)


def _scale(tensor: Tensor) -> float:
    """The factor that keeps probabilities representable in the dtype of a tensor: float16 has no number below 6e-8."""
    return 2.0**14 if tensor.dtype == torch.float16 else 1.0


class _LogProbabilities(torch.autograd.Function):
    """`log p_c`. Its derivative by `z_j` is `[c = j] - p_j`, so the backward pass needs the output alone."""

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
