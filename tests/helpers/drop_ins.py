"""The two losses that stand in for PyTorch's, and how to run either."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as reference

import xent

Loss = Callable[..., Tensor]

FUNCTIONS: dict[str, Loss] = {"scratch": xent.cross_entropy, "fused": xent.fused_cross_entropy}
MODULES: dict[str, type[nn.Module]] = {"scratch": xent.CrossEntropyLossFromScratch, "fused": xent.FusedCrossEntropyLoss}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WEIGHT = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
ARGUMENTS: list[dict[str, Any]] = [
    {"reduction": reduction, **smoothing, **weight}
    for reduction, smoothing, weight in product(
        ("mean", "sum", "none"), ({}, {"label_smoothing": 0.1}), ({}, {"weight": WEIGHT})
    )
]

each_function = pytest.mark.parametrize("loss", FUNCTIONS.values(), ids=FUNCTIONS)
each_module = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
each_arguments = pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: ",".join(map(str, a.values())))


def logits_and_target(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random logits `[N, C, ...]` that require a gradient, and class indices for them."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    return logits, torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)


def probabilities_for(logits: Tensor) -> Tensor:
    """Class probabilities, another distribution than that of the logits."""
    return logits.detach().roll(1, 0).softmax(1)


def assert_same(loss: Loss, input: Tensor, target: Tensor, **arguments: object) -> None:
    """Dtypes and shapes are PyTorch's, and the value is what PyTorch computes of the same numbers in float64.

    So are the gradients of what requires one. Up to the rounding that `torch.testing` allows the dtype: in half types
    PyTorch's own are further off.
    """
    ours = _value_and_gradients(loss, input, target, arguments)
    theirs = _value_and_gradients(reference, input, target, arguments)
    exact = _value_and_gradients(
        reference, _in_float64(input), _in_float64(target), {key: _in_float64(x) for key, x in arguments.items()}
    )
    for our, their, true in zip(ours, theirs, exact, strict=True):
        torch.testing.assert_close(our, true.to(their.dtype), equal_nan=True)


def _in_float64(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _value_and_gradients(loss: Loss, input: Tensor, target: Tensor, arguments: Any) -> list[Tensor]:
    tensors = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in (input, target)]
    value = loss(*tensors, **arguments)
    weights = (torch.arange(value.numel()) % 7 + 1).view_as(value).to(value.dtype)  # neighbours are not alike
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    return [value.detach(), *(torch.autograd.grad(value, leaves, weights) if leaves else ())]
