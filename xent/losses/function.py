"""A loss function as a module, so that it is configured, compiled, moved and trained with like other losses."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FunctionLoss(nn.Module):
    """The loss `function(logits, target, **arguments)` as a module.

    Each argument is an attribute of its own name. Tensors are buffers, so that they move with the module.

    Attributes:
        function: the loss function.
        names: the names of its arguments.
    """

    def __init__(self, function: Callable[..., Tensor], **arguments: Any) -> None:
        super().__init__()
        self._function, self._names = function, list(arguments)
        for name, value in arguments.items():
            self.register_buffer(name, value) if isinstance(value, Tensor) else setattr(self, name, value)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self._function(logits, target, **{name: getattr(self, name) for name in self._names})
