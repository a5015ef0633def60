"""A loss alone in float64 all the way, in a training that is as it was."""

from typing import Any

import torch
from torch import Tensor, nn

from xent.losses.function import FunctionLoss
from xent.recording.float64 import widening
from xent.training.validate_loss import Loss


class LossInFloat64(nn.Module):
    """A loss whose forward and backward pass are inside `all_in_float64`, whatever its training does.

    Attributes that this module lacks, such as `reduction`, are those of the loss.

    Attributes:
        loss: `(logits [batch, classes], target [batch]) -> scalar`.
        casts: the types narrower than float64 to which the loss would have cast so far.
    """

    def __init__(self, loss: Loss, casts: set[str]) -> None:
        super().__init__()
        self.loss, self.casts = loss if isinstance(loss, nn.Module) else FunctionLoss(loss), casts

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        value: Tensor = _InFloat64.apply(logits, target, self)
        return value

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("loss"), name)


class _InFloat64(torch.autograd.Function):
    """The loss as one step of autograd, whose backward pass is that of a graph of its own."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, module: LossInFloat64) -> Tensor:
        ctx.module, ctx.logits = module, logits.detach().requires_grad_()
        with torch.enable_grad(), widening() as casts:
            ctx.value = module.loss(ctx.logits.clone(), target)  # a clone: a loss may write into its logits
        module.casts |= casts
        return ctx.value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        with widening() as casts:
            ctx.value.backward(gradient)  # this reaches the loss's own weights too
        ctx.module.casts |= casts
        return ctx.logits.grad, None, None
