"""What a loss leaves to autograd between forward and backward, and what it makes of any gradient from above."""

from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import Loss, each_function, logits_and_target
from xent import cross_entropy, fused_cross_entropy

WEIGHT = torch.tensor([1.0, 0.5, 2.0, 3.0], dtype=torch.float64)
ARGUMENTS: list[dict[str, Any]] = [
    {"reduction": reduction, **smoothing, **weight}
    for reduction, smoothing, weight in product(
        ("mean", "sum", "none"), ({}, {"label_smoothing": 0.1}), ({}, {"weight": WEIGHT})
    )
]
each_arguments = pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: ",".join(map(str, a.values())))


def with_weight_of(dtype: torch.dtype, arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: each.to(dtype) if isinstance(each, Tensor) else each for key, each in arguments.items()}


@each_function
@each_arguments
@pytest.mark.parametrize("above", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3)])
def test_an_ignored_target_has_gradient_0_whatever_comes_from_above(
    loss: Loss, arguments: dict[str, Any], above: float, shape: tuple[int, ...]
) -> None:
    for every in (False, True):
        logits, target = logits_and_target(*shape)
        ignored = torch.ones_like(target, dtype=torch.bool) if every else target == 2
        value = loss(logits, target.masked_fill(ignored, 2), ignore_index=2, **arguments)
        (gradient,) = torch.autograd.grad(value, logits, torch.full_like(value, above))
        assert (gradient.movedim(1, -1)[ignored] == 0).all()
        assert every or not gradient.movedim(1, -1)[~ignored].isfinite().any()


@each_function
@each_arguments
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3)])
def test_the_first_three_derivatives(
    loss: Loss, arguments: dict[str, Any], probabilities: bool, shape: tuple[int, ...]
) -> None:
    logits, target = logits_and_target(*shape)
    given = logits.detach().roll(1, 0).softmax(1) if probabilities else target
    if not probabilities:
        arguments = arguments | {"ignore_index": 3}

    def derivatives(f: Loss) -> list[Tensor]:
        leaf = logits.detach().requires_grad_()
        value = f(leaf, given, **arguments)
        above = torch.linspace(1, 2, value.numel(), dtype=torch.float64).view_as(value).requires_grad_()
        (first,) = torch.autograd.grad(value, leaf, above, create_graph=True)
        second, by_above = torch.autograd.grad(first.pow(2).sum(), [leaf, above], create_graph=True)
        (third,) = torch.autograd.grad(second.pow(2).sum() + first.pow(3).sum(), leaf)
        return [first, second, by_above, third]

    for ours, theirs in zip(derivatives(loss), derivatives(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def held(loss: Loss, logits: Tensor, target: Tensor, arguments: dict[str, Any]) -> int:
    """Bytes that are kept for the backward pass, by autograd or by a name of anything else."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(logits, target, **arguments)
    for name, attribute in vars(value.grad_fn).items() if hasattr(value.grad_fn, "__dict__") else ():
        assert not isinstance(attribute, Tensor), f"{name} is kept where autograd does not see it"
    return sum(storages.values())


@each_arguments
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("probabilities", [False, True])
def test_fused_holds_no_more_than_pytorch_does(
    arguments: dict[str, Any], dtype: torch.dtype, probabilities: bool
) -> None:
    logits, target = logits_and_target(500, 200, dtype=dtype)
    weight = {"weight": torch.ones(200, dtype=dtype)} if "weight" in arguments else {}
    given = logits.detach().softmax(1) if probabilities else target
    ours, theirs = (held(f, logits, given, arguments | weight) for f in (fused_cross_entropy, reference))
    small = 500 * 32  # of each row a few numbers
    in_float32 = dtype.itemsize < 4 and (probabilities or "label_smoothing" in arguments)  # where PyTorch rounds first
    assert ours <= theirs * (1 + in_float32) + small


def gradient_after_writing_over(
    loss: Loss, arguments: dict[str, Any], probabilities: bool, shape: tuple[int, ...]
) -> Tensor:
    """The gradient of logits that somebody writes over before the backward pass."""
    leaf, target = logits_and_target(*shape)
    logits = 2 * leaf
    value = loss(logits, logits.detach().roll(1, 0).softmax(1) if probabilities else target, **arguments)
    with torch.no_grad():
        logits.clamp_(-0.1, 0.1)
    return torch.autograd.grad(value.sum(), leaf)[0]


@each_arguments
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 2, 3)])
def test_the_logits_of_fused_may_be_written_over_before_the_backward_pass(
    arguments: dict[str, Any], probabilities: bool, shape: tuple[int, ...]
) -> None:
    ours, theirs = (
        gradient_after_writing_over(loss, arguments, probabilities, shape) for loss in (fused_cross_entropy, reference)
    )
    torch.testing.assert_close(ours, theirs)


@each_arguments
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 2, 3)])
def test_logits_of_scratch_that_are_written_over_are_noticed_where_it_keeps_them(
    arguments: dict[str, Any], probabilities: bool, shape: tuple[int, ...]
) -> None:
    """So that no gradient is silently wrong."""
    keeps_them = not probabilities and "label_smoothing" not in arguments
    with pytest.raises(RuntimeError, match="modified by an inplace operation") if keeps_them else nullcontext():
        ours, theirs = (
            gradient_after_writing_over(loss, arguments, probabilities, shape) for loss in (cross_entropy, reference)
        )
        torch.testing.assert_close(ours, theirs)


def offloaded(f: Loss, logits: Tensor, target: Tensor, arguments: dict[str, Any]) -> Tensor:
    with save_on_cpu():
        value = f(logits, target, **arguments)
    return torch.autograd.grad(value.sum(), logits)[0]


def by_compiled_autograd(f: Loss, logits: Tensor, target: Tensor, arguments: dict[str, Any]) -> Tensor:
    torch._dynamo.reset()
    leaf = logits.detach().requires_grad_()
    value = f(leaf, target, **arguments).sum()
    with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager", fullgraph=True)):
        value.backward()
    assert leaf.grad is not None
    return leaf.grad


@each_function
@each_arguments
def test_what_is_saved_may_be_moved_elsewhere(loss: Loss, arguments: dict[str, Any]) -> None:
    logits, target = logits_and_target(6, 4)
    ours, theirs = (offloaded(f, logits, target, arguments) for f in (loss, reference))
    torch.testing.assert_close(ours, theirs)


@each_function
@pytest.mark.parametrize("arguments", [ARGUMENTS[i] for i in (0, 3, 5, 6, 8, 11)], ids=str)  # every pair
def test_a_backward_pass_may_be_compiled(loss: Loss, arguments: dict[str, Any]) -> None:
    logits, target = logits_and_target(6, 4)
    ours, theirs = (by_compiled_autograd(f, logits, target, arguments) for f in (loss, reference))
    torch.testing.assert_close(ours, theirs)


def test_float16_keeps_gradients_for_a_scaled_loss() -> None:
    """A gradient below what float16 has, times a loss scale, is there again."""
    logits = torch.tensor([[0.0, -18.0, -9.0]], dtype=torch.float16, requires_grad=True)
    (fused_cross_entropy(logits, torch.tensor([0])) * 2.0**15).backward()
    exact = logits.detach().double().requires_grad_()
    (reference(exact, torch.tensor([0])) * 2.0**15).backward()
    assert logits.grad is not None and exact.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2e-3, atol=0)
