"""What a loss leaves to autograd between forward and backward, and what it makes of any gradient from above."""

from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import ARGUMENTS, Loss, each_arguments, each_function, logits_and_target, probabilities_for
from xent import cross_entropy, fused_cross_entropy


@each_function
@each_arguments
def test_an_ignored_target_has_gradient_0_whatever_comes_from_above(loss: Loss, arguments: dict[str, Any]) -> None:
    infinite = ((torch.inf, (6, 4)), (-torch.inf, (6, 4, 3)), (torch.nan, (6, 4, 3)))
    for (above, shape), all_ignored in product(infinite, (False, True)):
        logits, target = logits_and_target(*shape)
        ignored = torch.ones_like(target, dtype=torch.bool) if all_ignored else target == 2
        value = loss(logits, target.masked_fill(ignored, 2), ignore_index=2, **arguments)
        (gradient,) = torch.autograd.grad(value, logits, torch.full_like(value, above))
        assert (gradient.movedim(1, -1)[ignored] == 0).all()
        assert not gradient.movedim(1, -1)[~ignored].isfinite().any()


@each_function
def test_a_gradient_is_the_callers_own(loss: Loss) -> None:
    """Whoever scales a gradient in place, as clipping does, must not scale that of a second backward pass."""
    logits, target = logits_and_target(5, 4)
    value = loss(logits, target)
    first, second = (torch.autograd.grad(value * scale, logits, retain_graph=True)[0] for scale in (1, 3))
    torch.testing.assert_close(second, 3 * first, rtol=1e-10, atol=1e-12)
    first.mul_(100)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], second / 3, rtol=1e-10, atol=1e-12)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, logits)


def bytes_kept(loss: Loss, logits: Tensor, target: Tensor, arguments: dict[str, Any]) -> int:
    """What is kept for the backward pass, by autograd or by a name of anything else."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(logits, target, **arguments)
    nodes = [value.grad_fn]
    for node in nodes:
        nodes += [function for function, _ in node.next_functions if function is not None]
        for name, attribute in getattr(node, "__dict__", {}).items():
            assert not isinstance(attribute, Tensor), f"{name} is kept where autograd does not see it"
    return sum(storages.values())


@each_arguments
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fused_keeps_no_more_than_pytorch_does(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    logits, target = logits_and_target(500, 200, dtype=dtype)
    if "weight" in arguments:
        arguments = arguments | {"weight": torch.ones(200, dtype=dtype)}
    for labels in (target, logits.detach().softmax(1)):
        ours, theirs = (bytes_kept(f, logits, labels, arguments) for f in (fused_cross_entropy, reference))
        if dtype.itemsize < 4 and (labels is not target or "label_smoothing" in arguments):
            theirs *= 2  # PyTorch rounds before, ours keeps float32
        assert ours <= theirs + 500 * 32, "a few numbers of each row"


@each_function
@each_arguments
@pytest.mark.parametrize(("probabilities", "shape"), [(False, (6, 4, 2, 3)), (True, (6, 4)), (False, (6, 4))])
def test_no_gradient_is_silently_wrong_after_logits_were_written_over(
    loss: Loss, arguments: dict[str, Any], probabilities: bool, shape: tuple[int, ...]
) -> None:
    """It is right, or where scratch keeps the logits, an error."""

    def gradient(f: Loss) -> Tensor:
        leaf, target = logits_and_target(*shape)
        logits = 2 * leaf
        value = f(logits, probabilities_for(logits) if probabilities else target, **arguments)
        with torch.no_grad():
            logits.clamp_(-0.1, 0.1)
        return torch.autograd.grad(value.sum(), leaf)[0]

    keeps_them = loss is cross_entropy and not probabilities and "label_smoothing" not in arguments
    with pytest.raises(RuntimeError, match="modified by an inplace operation") if keeps_them else nullcontext():
        torch.testing.assert_close(gradient(loss), gradient(reference))


@each_function
@each_arguments
def test_what_is_saved_may_be_moved_elsewhere(loss: Loss, arguments: dict[str, Any]) -> None:
    def gradient(f: Loss) -> Tensor:
        logits, target = logits_and_target(6, 4)
        with save_on_cpu():
            value = f(logits, target, **arguments)
        return torch.autograd.grad(value.sum(), logits)[0]

    torch.testing.assert_close(gradient(loss), gradient(reference))


@each_function
@pytest.mark.parametrize("arguments", [ARGUMENTS[i] for i in (0, 3, 5, 6, 8, 11)], ids=str)  # every pair
def test_a_backward_pass_may_be_compiled(loss: Loss, arguments: dict[str, Any]) -> None:
    logits, target = logits_and_target(6, 4)
    (expected,) = torch.autograd.grad(reference(logits, target, **arguments).sum(), logits)
    torch._dynamo.reset()
    value = loss(logits, target, **arguments).sum()
    with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager", fullgraph=True)):
        value.backward()
    torch.testing.assert_close(logits.grad, expected)


def test_float16_keeps_gradients_for_a_scaled_loss() -> None:
    """A gradient below what float16 has, times a loss scale, is there again."""
    logits = torch.tensor([[0.0, -18.0, -9.0]], dtype=torch.float16, requires_grad=True)
    exact = logits.detach().double().requires_grad_()
    (ours,) = torch.autograd.grad(fused_cross_entropy(logits, torch.tensor([0])) * 2.0**15, logits)
    (theirs,) = torch.autograd.grad(reference(exact, torch.tensor([0])) * 2.0**15, exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-3, atol=0)


def test_float16_has_second_derivatives() -> None:
    def second(f: Loss, dtype: torch.dtype) -> Tensor:
        logits, target = logits_and_target(5, 4, dtype=torch.float16)
        leaf = logits.detach().to(dtype).requires_grad_()
        (first,) = torch.autograd.grad(f(leaf, target), leaf, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), leaf)[0].double()

    torch.testing.assert_close(
        second(fused_cross_entropy, torch.float16), second(reference, torch.float64), rtol=1e-2, atol=1e-3
    )
