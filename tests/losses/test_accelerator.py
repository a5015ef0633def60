"""Every loss on another device than the CPU: the values of the CPU, and nothing that the host waits for."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import xent
from tests.helpers.accelerators import Operations, waits
from tests.helpers.drop_ins import ARGUMENTS, FUNCTIONS, Call, Loss, logits_and_target, probabilities_for
from xent.losses.impostors import MISTAKES, MISTAKES_IN_IGNORING
from xent.testing import assert_same_learning

pytestmark = pytest.mark.accelerator
DROP_INS = FUNCTIONS | {"torch": cross_entropy}
LOSSES: dict[str, Loss] = DROP_INS | {"article": xent.ArticleCrossEntropyLoss()} | MISTAKES
NEEDED = {name: {"ignore_index": 2} if name in MISTAKES_IN_IGNORING else {} for name in LOSSES}


def results(loss: Loss, logits: Tensor, target: Tensor, arguments: dict[str, Any]) -> list[Tensor]:
    """Value, gradient, the same gradient again, the gradient of its square, and the gradient of a graph for one use."""
    leaf = logits.detach().requires_grad_()
    values = loss(leaf, target, **arguments)
    above = torch.linspace(1, 2, values.numel(), dtype=torch.float64).view(values.shape).to(values, non_blocking=True)
    (gradient,) = torch.autograd.grad(values, leaf, above, create_graph=True)
    again = torch.autograd.grad(values, leaf, above, retain_graph=True)[0]
    of_square = torch.autograd.grad(gradient.square().sum(), leaf)[0] if gradient.requires_grad else gradient
    plain = torch.autograd.grad(loss(leaf, target, **arguments), leaf, above)[0]
    return [values, gradient, again, of_square, plain]


def calls(name: str) -> Iterator[Call]:
    logits, target = logits_and_target(12, 4)
    yield logits, target, NEEDED[name]
    if name not in DROP_INS:
        return
    sure = 50 * torch.eye(4, dtype=torch.float64)[target.roll(1)]
    yield from ((sure, target, {}), (2 * sure.float(), target, {}))
    for arguments in ARGUMENTS:
        yield logits, probabilities_for(logits), arguments
        yield logits[0], target[0], arguments | {"ignore_index": 2}
        yield *logits_and_target(3, 4, 2, 2), arguments | {"ignore_index": 2}
        yield logits, target, arguments
        yield logits, target, arguments | {"ignore_index": 2}
        yield logits, target.masked_fill(target == 0, -7), arguments | {"ignore_index": -7}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_the_cpu_waits_for_nothing_and_loops_over_nothing(name: str, accelerator: str) -> None:
    for logits, target, arguments in calls(name):
        on_device = {key: x.to(accelerator) if isinstance(x, Tensor) else x for key, x in arguments.items()}
        call = LOSSES[name], logits.detach().to(accelerator), target.to(accelerator), on_device
        if accelerator == "cuda":
            results(*call)  # what PyTorch sets up at first may wait
        with waits() as waited:
            ours = results(*call)
        assert name == "torch" or waited == [], arguments  # PyTorch's own does for weights and smoothing
        coarse = logits.dtype == torch.float32 or name == "lower_precision"
        rtol, atol = (1e-5, 1e-7) if coarse else (1e-11, 1e-13)
        expected = results(LOSSES[name], logits, target, arguments)
        torch.testing.assert_close([x.cpu() for x in ours], expected, rtol=rtol, atol=atol, equal_nan=True)
    counted = []
    for shape in ((12, 4), (20, 7)):
        logits, target = (tensor.to(accelerator) for tensor in logits_and_target(*shape))
        with Operations() as counter:
            results(LOSSES[name], logits, target, NEEDED[name])
        counted.append(counter.counted)
    assert counted[0] == counted[1], "as many operations for more rows and classes"


@pytest.mark.slow
def test_the_one_line_proof(accelerator: str) -> None:
    def wrong_on_the_device(logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target) * (1 + 1e-9 * (logits.device.type == accelerator))

    assert_same_learning(xent.CrossEntropyLossFromScratch(), device=accelerator, steps=64)
    with pytest.raises(AssertionError, match="different"):
        assert_same_learning(wrong_on_the_device, device=accelerator, steps=64)
