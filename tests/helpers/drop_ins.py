"""The two losses that stand in for PyTorch's, and how to run either."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as reference

import xent

Loss = Callable[..., Tensor]
Call = tuple[Tensor, Tensor, dict[str, Any]]  # input, target and keyword arguments

FUNCTIONS: dict[str, Loss] = {"scratch": xent.cross_entropy, "fused": xent.fused_cross_entropy}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WEIGHT = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
EVERY = product(("mean", "sum", "none"), ({}, {"label_smoothing": 0.1}), ({}, {"weight": WEIGHT}))
ARGUMENTS = [{"reduction": reduction, **smoothing, **weight} for reduction, smoothing, weight in EVERY]

each_module = pytest.mark.parametrize("module", [xent.CrossEntropyLossFromScratch, xent.FusedCrossEntropyLoss])
each_arguments = pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: ",".join(map(str, a.values())))


def logits_and_target(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random logits `[N, C, ...]` that require a gradient, and class indices for them."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    return logits, torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)


def probabilities_for(logits: Tensor) -> Tensor:
    """Class probabilities, another distribution than that of the logits."""
    return logits.detach().roll(1, 0).softmax(1)


def assert_same(loss: Loss, input: Tensor, target: Tensor, **arguments: Any) -> None:
    """Dtypes and shapes are PyTorch's; value and gradients are its own in float64, rounded: in half types it is off."""
    call = {"input": input, "target": target, **arguments}
    exact = {key: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for key, x in call.items()}
    results = (_value_and_gradients(loss, call), _value_and_gradients(reference, call))
    for ours, theirs, true in zip(*results, _value_and_gradients(reference, exact), strict=True):
        torch.testing.assert_close(ours, true.to(theirs.dtype), equal_nan=True)


def _value_and_gradients(loss: Loss, call: dict[str, Any]) -> list[Tensor]:
    copies = {key: call[key].detach().clone().requires_grad_(call[key].requires_grad) for key in ("input", "target")}
    value = loss(**call | copies)
    weights = (torch.arange(value.numel()) % 7 + 1).view_as(value).to(value.dtype)  # neighbours are not alike
    leaves = [tensor for tensor in copies.values() if tensor.requires_grad]
    return [value.detach(), *(torch.autograd.grad(value, leaves, weights) if leaves else ())]
