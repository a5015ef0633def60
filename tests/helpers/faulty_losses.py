"""Losses as others write them, for the tests that train with them as `loss._target_=tests.helpers.faulty_losses...`."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class OutOfMemory(nn.CrossEntropyLoss):
    """Finds no memory for its third batch."""

    steps = 0

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.steps += input.requires_grad and len(target) > 4  # not those that only try the loss out
        if self.steps == 3:
            raise torch.OutOfMemoryError
        return super().forward(input, target)


class Bfloat16Only(nn.CrossEntropyLoss):
    """A kernel of one type."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        assert input.dtype == torch.bfloat16
        return super().forward(input, target)


class _Overwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, target)
        gradient = (logits.softmax(1) - nn.functional.one_hot(target, logits.shape[1])) / len(target)
        logits.data.copy_(gradient)  # as fused kernels do, to save memory
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grad, None


class Overwriting(nn.Module):
    """A kernel that leaves its gradient where its logits were, and class 0 where its targets were."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = _Overwriting.apply(input, target)
        target.zero_()
        return loss


class Float32(nn.Module):
    """A kernel that computes in float32, by powers of 2; its gradient is off by a part of `error`."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        logits = input.float()
        bits = (logits - logits.amax(1, keepdim=True)) / math.log(2)
        loss = nn.functional.nll_loss((bits - bits.exp2().sum(1, keepdim=True).log2()) * math.log(2), target)
        return (loss + self.error * (loss - loss.detach())).to(input.dtype)
