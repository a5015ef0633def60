"""What `xent.cross_entropy` is made of, and how exact it is."""

from typing import Any

import mpmath
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.drop_ins import Loss, each_function

FORBIDDEN = ("softmax", "logsumexp", "nll_loss", "cross_entropy", "logcumsumexp")


class Recorder(TorchDispatchMode):
    """The names of the operations that PyTorch dispatches, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def operations(loss: Loss, **arguments: Any) -> set[str]:
    logits = torch.randn(8, 5, requires_grad=True)
    target = arguments.pop("target", torch.arange(8) % 5)
    with Recorder() as recorder:
        (gradient,) = torch.autograd.grad(loss(logits, target, **arguments), logits, create_graph=True)
        gradient.pow(2).sum().backward()
    return recorder.operations


@each_function
@pytest.mark.parametrize(
    "arguments",
    [{}, {"label_smoothing": 0.1}, {"target": torch.full((8, 5), 0.2)}, {"weight": torch.ones(5), "ignore_index": 2}],
)
def test_basic_operations_only(loss: Loss, arguments: dict[str, Any]) -> None:
    used = operations(loss, **arguments)
    assert {"exp", "sum"} & used or {"exp_", "sum"} & used
    assert not [name for name in used if any(word in name for word in FORBIDDEN)], used


def test_the_recorder_sees_what_is_forbidden() -> None:
    assert {"_log_softmax", "nll_loss_forward", "_log_softmax_backward_data"} <= operations(
        torch.nn.functional.cross_entropy
    )


@each_function
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_confident_row_keeps_its_loss_and_gradient(loss: Loss, create_graph: bool) -> None:
    """PyTorch rounds them: with `z_t` 20 above the rest it says 0 and 0, where 2e-9 is the truth."""
    logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
    value = loss(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value, logits, create_graph=create_graph)
    truth = float(mpmath.log1p(mpmath.exp(-20)))
    p = float(1 / (1 + mpmath.exp(20)))
    assert value.item() == pytest.approx(truth, rel=2e-7)
    assert gradient.tolist()[0] == pytest.approx([-p, p], rel=2e-7)
    assert torch.nn.functional.cross_entropy(logits, torch.tensor([0])) == 0


@each_function
def test_the_largest_finite_logits_do_not_overflow(loss: Loss) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        largest = torch.finfo(dtype).max
        logits = torch.tensor([[largest, -largest], [largest, largest]], dtype=dtype, requires_grad=True)
        value = loss(logits, torch.tensor([0, 0]), reduction="none")
        assert value.tolist() == [0, pytest.approx(0.6931, rel=5e-3)]
        assert torch.autograd.grad(value.sum(), logits)[0].tolist() == [[0, 0], [-0.5, 0.5]]
