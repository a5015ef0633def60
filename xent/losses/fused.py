"""Cross entropy with its gradient in closed form: softmax minus target."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from xent.losses import scratch
from xent.losses.scratch import assemble, log_probabilities

CACHED = 2**19  # logits at a time on a CPU: four passes over what fits its caches, and one over memory


def fused_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`xent.cross_entropy`, of the same arguments and values, with fewer passes over the logits.

    The derivative of the surprise `log(sum_j exp(z_j)) - z_t` with respect to the logit `z_c` is `p_c - [c = t]`. So
    the forward pass keeps `exp(z - m)`, and the backward pass is one product with it. A second derivative is
    autograd's, of the same formula written out. torch.compile, which fuses operations itself, torch.func and forward
    mode take the formula of xent.losses.scratch.
    """
    return assemble(surprise, expected_surprise, input, target, weight, ignore_index, reduction, label_smoothing)


def surprise(logits: Tensor, index: Tensor, dim: int) -> Tensor:
    """`xent.losses.scratch.surprise`."""
    if _is_transformed(logits):
        return scratch.surprise(logits, index, dim)
    losses: Tensor = _Surprise.apply(logits, index, dim)
    return losses


def expected_surprise(logits: Tensor, distribution: Tensor, dim: int) -> Tensor:
    """`xent.losses.scratch.expected_surprise`."""
    if _is_transformed(logits, distribution):
        return scratch.expected_surprise(logits, distribution, dim)
    losses: Tensor = _ExpectedSurprise.apply(logits, distribution, dim)
    return losses


def _is_transformed(*tensors: Tensor) -> bool:
    """Whether something other than autograd's backward pass is looking on."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    )


class _Surprise(torch.autograd.Function):
    """`log(own + others) - (z_t - m)`: of a row's terms `exp(z_j - m)` the target's own, and the sum of the others."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, dim: int) -> Tensor:
        terms = torch.empty_like(logits)
        rows = len(logits) if dim == 0 or not logits.is_cpu else max(1, CACHED * len(logits) // max(1, logits.numel()))
        blocks = zip(logits.split(rows), index.split(rows), terms.split(rows))
        parts = [_terms(*block, dim) for block in blocks]
        at_target, others = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts))
        ctx.dim = dim
        ctx.save_for_backward(logits, index, terms, others, at_target)
        # Where the target is on top, own is 1 and the others may be tiny: log1p keeps their digits.
        return (torch.log1p(others + at_target.expm1()) - at_target).squeeze(dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, index, terms, others, at_target = ctx.saved_tensors
        grad = grad.unsqueeze(ctx.dim)
        if torch.is_grad_enabled():  # asked for with create_graph: in operations that can be differentiated again
            p = log_probabilities(logits, ctx.dim).exp()
            others = p.scatter(ctx.dim, index, 0)
            return grad * others.scatter_add(ctx.dim, index, -others.sum(ctx.dim, keepdim=True)), None, None
        total = others + at_target.exp()
        return (terms * (grad / total)).scatter_(ctx.dim, index, others / total * -grad), None, None  # p_t - 1


def _terms(logits: Tensor, index: Tensor, terms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Fill `terms` with `exp(z_j - m)`, 0 at the target; return `z_t - m` and the sum of the terms."""
    torch.sub(logits, logits.amax(dim, keepdim=True), out=terms)
    at_target = terms.gather(dim, index)
    return at_target, terms.exp_().scatter_(dim, index, 0).sum(dim, keepdim=True)


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
