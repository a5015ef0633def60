"""What `xent.cross_entropy` is made of, and how exact it is."""

import ast
import inspect
from typing import Any

import mpmath
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.exactness import errors, measure, oracle
from tests.helpers.drop_ins import Loss, each_function
from xent.losses.scratch import surprise

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


def test_a_row_is_six_statements() -> None:
    (function,) = ast.parse(inspect.getsource(surprise)).body
    assert isinstance(function, ast.FunctionDef)
    assert len(function.body[1:]) <= 6, "after the docstring"


@each_function
def test_the_weights_of_classes_are_looked_up_where_they_are_given(loss: Loss) -> None:
    def forward(**arguments: Any) -> set[str]:
        logits, target = torch.randn(8, 5, requires_grad=True), torch.arange(8) % 5
        with Recorder() as recorder:
            loss(logits, target, **arguments)
        return recorder.operations

    assert "index" in forward(weight=torch.ones(5)) - forward()
    assert forward(ignore_index=2) == forward(), "ignored targets are always looked for"


@each_function
def test_no_value_is_looked_at_elsewhere_than_on_the_cpu(loss: Loss) -> None:
    """On a GPU the host would wait. Tensors on the meta device have no values."""
    logits = torch.randn(8, 5, device="meta", requires_grad=True)
    target = torch.zeros(8, dtype=torch.int64, device="meta")
    for arguments in ({}, {"ignore_index": 2}, {"weight": torch.ones(5, device="meta")}, {"label_smoothing": 0.1}):
        (gradient,) = torch.autograd.grad(loss(logits, target, **arguments), logits)
        assert gradient.shape == (8, 5)


@each_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("behind", [0.0, 39.0, 40.0, 41.0, 87.0, 100.0, 1000.0, -40.0, -1000.0])
@pytest.mark.parametrize("level", [0.0, 2.0**30, -(2.0**30)])
def test_however_far_the_target_is_behind(loss: Loss, dtype: torch.dtype, behind: float, level: float) -> None:
    logits, target = torch.tensor([[0.0, behind, behind - 1]], dtype=dtype) + level, torch.tensor([0])
    for found, exact in zip(measure(loss, logits, target), oracle(logits, target)):
        assert errors(found, exact).max() < 100


@each_function
@pytest.mark.parametrize("behind", [-20.0, 0.0, 39.0, 60.0, 87.0])
def test_second_derivative_however_far_the_target_is_behind(loss: Loss, behind: float) -> None:
    """`p_t (1 - p_t)` by `z_t` twice; in float32 neither the odds nor their square overflow."""
    logits = torch.tensor([[0.0, behind]], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([0])), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0, 0], logits)
    exact = float(mpmath.exp(behind) / (1 + mpmath.exp(behind)) ** 2)
    assert second.tolist()[0] == pytest.approx([exact, -exact], rel=1e-5)


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
