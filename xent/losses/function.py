"""A function as a module, so that it is configured, compiled, moved and trained with as other losses are."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FunctionLoss(nn.Module):
    """`function(logits, target, **arguments)`; arguments that are tensors are its buffers."""

    def __init__(self, function: Callable[..., Tensor], **arguments: Any) -> None:
        super().__init__()
        self.function = function
        self.arguments = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
        self.of_tensors = [name for name in arguments if name not in self.arguments]
        for name in self.of_tensors:
            self.register_buffer(f"argument_{name}", arguments[name])

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        tensors = {name: getattr(self, f"argument_{name}") for name in self.of_tensors}
        return self.function(logits, target, **self.arguments, **tensors)
