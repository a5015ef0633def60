"""Losses with a fault, or odd arguments, for tests that train as `loss._target_=tests.helpers.faulty_losses...`."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.right_losses import by_powers_of_2


class OutOfMemory(nn.CrossEntropyLoss):  # for its third batch
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


def nan(logits: Tensor, target: Tensor) -> Tensor:
    return logits.sum() * torch.nan


def clamped(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits.clamp(-950, 950), target)


class right:  # of another module, as it were
    clamped = staticmethod(cross_entropy)


def of_one_weight(logits: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    return cross_entropy(logits, target) * weight


def of_no_index(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    assert ignore_index is None
    return cross_entropy(logits, target)


def of_another_mean(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    assert reduction in ("mean", "batchmean")
    return cross_entropy(logits, target)


def of_steps(logits: Tensor, target: Tensor, label_smoothing: list[float]) -> Tensor:
    return cross_entropy(logits, target, label_smoothing=label_smoothing[0])
