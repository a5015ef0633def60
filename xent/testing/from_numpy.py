"""A loss of another framework, as a function of NumPy arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xent.recording.errors import BadInput
from xent.training.validate_loss import Loss


def from_numpy(value_and_grad: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]) -> Loss:
    """Make a loss for PyTorch of a function of NumPy arrays, such as JAX's `jax.value_and_grad` makes.

    >>> def loss(logits, target):
    ...     return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()
    >>> assert_same_learning(from_numpy(jax.value_and_grad(loss)))

    Args:
        value_and_grad: `(logits [batch, classes], target) -> (loss, gradient with respect to the logits)`. It gets
            copies, in the types of the tensors; logits in bfloat16, which NumPy lacks, come as float32. The gradient
            may be a pair, the second with respect to targets that are probabilities. Whatever `np.array` takes will do
            as a result.

    Returns:
        the loss, `(logits, target) -> scalar`. It has no second derivative.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        value: Tensor = _FromNumpy.apply(logits, target, value_and_grad)
        return value

    return loss


class _FromNumpy(torch.autograd.Function):
    """The function as one step of autograd, which has its gradient before it is asked for."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, value_and_grad: Callable[..., tuple[Any, Any]]) -> Tensor:
        result = value_and_grad(_array(logits), _array(target))
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise BadInput(f"value_and_grad gave a {type(result).__name__}: expected (loss, gradient of the logits)")
        value, gradients = result
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        if len(gradients) > 2:
            raise BadInput(f"value_and_grad gave {len(gradients)} gradients: expected that of the logits, or a pair")
        ctx.gradients = [
            _tensor(gradient, like, name)
            for gradient, like, name in zip(gradients, (logits, target), ("logits", "target"))
        ]
        return _tensor(value, logits.new_zeros(()), "loss")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        products = [gradient * own for own in ctx.gradients]
        return products[0], products[1] if len(products) > 1 else None, None


def _array(tensor: Tensor) -> np.ndarray:
    """A copy, which the function may write to."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def _tensor(value: Any, like: Tensor, name: str) -> Tensor:
    """A result as a tensor.

    Args:
        name: of what is looked for, for messages.

    Raises:
        BadInput: it is of another shape, or holds no real numbers.
    """
    array = np.array(value)
    what = "the loss" if name == "loss" else f"the gradient with respect to the {name}"
    if array.shape != like.shape:
        raise BadInput(f"{what} is of shape {array.shape}: expected {tuple(like.shape)}")
    try:
        if np.iscomplexobj(array):
            raise TypeError
        return torch.from_numpy(array.astype(np.float64)).to(like)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} is an array of {array.dtype}: expected real numbers") from error
