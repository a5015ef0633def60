"""A function as a module, so that it is configured, compiled and trained with as other losses are."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FunctionLoss(nn.Module):
    """`function(logits, target, **arguments)`."""

    def __init__(self, function: Callable[..., Tensor], **arguments: Any) -> None:
        super().__init__()
        self.function = function
        self.arguments = arguments

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.function(logits, target, **self.arguments)
