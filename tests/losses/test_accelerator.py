"""Every loss on another device than the CPU: the values of the CPU, and nothing that the host waits for."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import xent
from tests.helpers.accelerators import Operations, waits
from tests.helpers.drop_ins import FUNCTIONS, logits_and_target
from xent.losses.impostors import MISTAKES
from xent.testing import assert_same_learning

pytestmark = pytest.mark.accelerator
WEIGHT = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
ARGUMENTS: list[dict[str, Any]] = [
    {"reduction": reduction, **ignored, **smoothing, **weight}
    for reduction, ignored, smoothing, weight in product(
        ("mean", "sum", "none"),
        ({}, {"ignore_index": 2}, {"ignore_index": -7}),
        ({}, {"label_smoothing": 0.1}),
        ({}, {"weight": WEIGHT}),
    )
]
Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = FUNCTIONS | {"torch": cross_entropy, "article": xent.ArticleCrossEntropyLoss()} | MISTAKES


def results(loss: Loss, logits: Tensor, target: Tensor, arguments: dict[str, Any]) -> list[Tensor]:
    """Value, gradient, the same gradient again, and the gradient of its square."""
    leaf = logits.detach().requires_grad_()
    values = loss(leaf, target, **arguments)
    above = torch.linspace(1, 2, values.numel(), dtype=torch.float64).view(values.shape).to(values, non_blocking=True)
    (gradient,) = torch.autograd.grad(values, leaf, above, create_graph=True)
    again = torch.autograd.grad(values, leaf, above, retain_graph=True)[0]
    of_square = torch.autograd.grad(gradient.square().sum(), leaf)[0] if gradient.requires_grad else gradient
    plain = torch.autograd.grad(loss(leaf, target, **arguments), leaf, above)[0]
    return [values, gradient, again, of_square, plain]


def calls(name: str) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Logits, target and arguments that a loss takes."""
    logits, target = logits_and_target(12, 4)
    if name not in (*FUNCTIONS, "torch"):
        return [(logits, target, {"ignore_index": 2} if name.startswith("ignored_") else {})]
    sure = 50 * torch.eye(4, dtype=torch.float64)[target.roll(1)]
    found = [(logits, target.masked_fill(target == 0, arguments.get("ignore_index", 0)), arguments)
             for arguments in ARGUMENTS]  # fmt: skip
    found += [(sure, target, {}), (2 * sure.float(), target, {})]
    found += [(logits[0], target[0], arguments) for arguments in ARGUMENTS[:12]]
    found += [(*logits_and_target(3, 4, 2, 2), arguments) for arguments in ARGUMENTS[:12]]
    found += [
        (logits, logits.detach().roll(1, 0).softmax(1), arguments)
        for arguments in ARGUMENTS
        if "ignore_index" not in arguments
    ]
    return found


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_the_cpu_and_waits_for_nothing(name: str, accelerator: str) -> None:
    loss = LOSSES[name]
    for logits, target, arguments in calls(name):
        on_device = {key: each.to(accelerator) if isinstance(each, Tensor) else each for key, each in arguments.items()}
        given = logits.detach().to(accelerator), target.to(accelerator)
        results(loss, *given, on_device)  # what PyTorch sets up at first may wait
        with waits() as waited:
            found = results(loss, *given, on_device)
        assert name == "torch" or waited == [], arguments  # PyTorch's own does for weights and smoothing
        expected = results(loss, logits, target, arguments)
        for ours, theirs in zip(found, expected, strict=True):
            coarse = ours.dtype == torch.float32 or name == "lower_precision"
            rtol, atol = (1e-5, 1e-7) if coarse else (1e-11, 1e-13)
            torch.testing.assert_close(ours.cpu(), theirs, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("name", LOSSES)
def test_a_larger_batch_takes_as_many_operations(name: str, accelerator: str) -> None:
    """As it would not of a loop over rows or classes."""

    def operations(batch: int, classes: int) -> dict[str, int]:
        logits, target = (each.to(accelerator) for each in logits_and_target(batch, classes))
        arguments = {"ignore_index": 2} if name.startswith("ignored_") else {}
        with Operations() as found:
            results(LOSSES[name], logits, target, arguments)
        return dict(found.counted)

    assert operations(12, 4) == operations(20, 7)


@pytest.mark.parametrize("module", [xent.CrossEntropyLossFromScratch, xent.FusedCrossEntropyLoss])
def test_a_module_moves_with_its_weights(module: type[torch.nn.CrossEntropyLoss], accelerator: str) -> None:
    logits, target = logits_and_target(12, 4)
    loss = module(WEIGHT, label_smoothing=0.1)
    expected = loss(logits, target)
    found = loss.to(accelerator)(logits.detach().to(accelerator), target.to(accelerator))
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_of_two_devices_are_refused(name: str, accelerator: str) -> None:
    logits, target = logits_and_target(12, 4)
    with pytest.raises(RuntimeError, match="same device"):
        FUNCTIONS[name](logits.detach().to(accelerator), target)
    with pytest.raises(RuntimeError, match="same device"):
        FUNCTIONS[name](logits.detach().to(accelerator), target.to(accelerator), weight=WEIGHT)


@pytest.mark.slow
def test_the_one_line_proof(accelerator: str) -> None:
    assert_same_learning(xent.CrossEntropyLossFromScratch(), device=accelerator)
    with pytest.raises(AssertionError, match="different"):
        assert_same_learning(lambda logits, target: cross_entropy(logits, target) * (1 + 1e-9), device=accelerator)
