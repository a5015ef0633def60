"""Losses with faults, for the tests that train with them as `loss._target_=tests.helpers.faulty_losses...`."""

import torch
from torch import Tensor, nn


class OutOfMemory(nn.CrossEntropyLoss):
    """Finds no memory for its third batch."""

    steps = 0

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.steps += input.requires_grad and len(target) > 2  # not those that only try the loss out
        if self.steps == 3:
            raise torch.OutOfMemoryError
        return super().forward(input, target)
