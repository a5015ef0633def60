"""Losses with a fault, for the tests that train with them as `loss._target_=tests.helpers.faulty_losses...`."""

import torch
from torch import Tensor, nn

from tests.helpers.right_losses import by_powers_of_2


class OutOfMemory(nn.CrossEntropyLoss):
    """Finds no memory for its third batch."""

    steps = 0

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.steps += input.requires_grad and len(target) > 4  # not those that only try the loss out
        if self.steps == 3:
            raise torch.OutOfMemoryError
        return super().forward(input, target)


class Bfloat16Only(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        assert input.dtype == torch.bfloat16
        return super().forward(input, target)


class Float32(nn.Module):
    """A kernel that computes in float32, by powers of 2; its gradient is off by a part of `error`."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = by_powers_of_2(input.float(), target)
        return (loss + self.error * (loss - loss.detach())).to(input.dtype)


class NanOnce(nn.CrossEntropyLoss):
    """NaN for its third batch, with the right gradient, but only for the first of its kind in a process."""

    steps = 0
    was_nan = False

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.steps += input.requires_grad
        is_nan = self.steps == 3 and not NanOnce.was_nan
        NanOnce.was_nan |= is_nan
        return super().forward(input, target) + (torch.nan if is_nan else 0)
