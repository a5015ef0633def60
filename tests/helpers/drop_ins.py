"""The two losses that stand in for PyTorch's, and how to run either."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as reference

import xent

Loss = Callable[..., Tensor]

FUNCTIONS: dict[str, Loss] = {"scratch": xent.cross_entropy, "fused": xent.fused_cross_entropy}
MODULES: dict[str, type[nn.Module]] = {"scratch": xent.CrossEntropyLossFromScratch, "fused": xent.FusedCrossEntropyLoss}

each_function = pytest.mark.parametrize("loss", FUNCTIONS.values(), ids=FUNCTIONS)
each_module = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)


def logits_and_target(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 3.0
) -> tuple[Tensor, Tensor]:
    """Random logits `[N, C, ...]` that require a gradient, and class indices for them."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    return logits, torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)


def assert_same(loss: Loss, input: Tensor, target: Tensor, **arguments: object) -> None:
    """Dtypes and shapes are PyTorch's, and values and gradients what PyTorch computes of the same numbers in float64.

    Up to the rounding that `torch.testing` allows the dtype: in half types PyTorch's own are further off.
    """
    ours = _value_and_gradients(loss, input, target, arguments)
    theirs = _value_and_gradients(reference, input, target, arguments)
    exact = _value_and_gradients(reference, *map(_in_float64, (input, target)), _in_float64(arguments))
    for our, their, true in zip(ours, theirs, exact, strict=True):
        torch.testing.assert_close(our, true.to(their.dtype), equal_nan=True)


def assert_same_value(loss: Loss, input: Tensor, target: Tensor, **arguments: object) -> None:
    """`assert_same` of the value alone."""
    theirs = reference(input, target, **arguments)  # type: ignore[arg-type]
    exact = reference(*map(_in_float64, (input, target)), **_in_float64(arguments))
    torch.testing.assert_close(loss(input, target, **arguments), exact.to(theirs.dtype), equal_nan=True)


def _in_float64(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_float64(each) for name, each in value.items()}
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _value_and_gradients(loss: Loss, input: Tensor, target: Tensor, arguments: Any) -> list[Tensor]:
    leaves = [each.detach().clone().requires_grad_(each is input or each.requires_grad) for each in (input, target)]
    value = loss(*leaves, **arguments)
    weights = (torch.arange(value.numel()) % 7 + 1).view_as(value).to(value.dtype)  # neighbours are not alike
    return [value.detach(), *torch.autograd.grad(value, [x for x in leaves if x.requires_grad], weights)]
