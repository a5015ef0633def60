"""What PyTorch's own loss works with, ours works with."""

from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacrev, linearize, vmap
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import WEIGHT, Loss, each_function, logits_and_target, probabilities_for

ARGUMENTS: list[dict[str, Any]] = [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"reduction": "none"}]
each_arguments = pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: ",".join(a) or "plain")


def assert_close(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@each_function
@each_arguments
def test_transforms_that_differentiate(loss: Loss, arguments: dict[str, Any]) -> None:
    leaf, target = logits_and_target(5, 4)
    logits, direction = leaf.detach(), torch.ones(5, 4, dtype=torch.float64).cumsum(1)

    def derivatives(f: Loss) -> dict[str, Tensor]:
        def values(z: Tensor) -> Tensor:
            return f(z, target, **arguments)

        def total(z: Tensor) -> Tensor:
            return values(z).sum()

        above = torch.arange(1.0, 3 * values(logits).numel() + 1, dtype=torch.float64)
        batch = above.view(3, *values(logits).shape)
        with forward_ad.dual_level():
            dual, weight = forward_ad.make_dual(leaf, direction), forward_ad.make_dual(WEIGHT, direction[0])
            (gradient,) = torch.autograd.grad(total(dual), dual)
            weighted = f(logits, probabilities_for(leaf), weight, **{} if "ignore_index" in arguments else arguments)
            tangents = [forward_ad.unpack_dual(tensor).tangent for tensor in (gradient, weighted)]
        (first,) = torch.autograd.grad(value := total(leaf), leaf, create_graph=True)
        (second,) = torch.autograd.grad(value + first.pow(2).sum(), leaf, create_graph=True)
        return {
            "gradient penalty": second,
            "third derivative": torch.autograd.grad(second.pow(2).sum() + first.pow(3).sum(), leaf)[0],
            "jacrev": jacrev(values)(logits),
            "hessian": hessian(total)(logits),
            "linearize": linearize(total, logits)[1](direction),
            "vmap": vmap(grad(total))(torch.stack([logits, 2 * logits])),
            "is_grads_batched": torch.autograd.grad(values(leaf), leaf, batch, is_grads_batched=True)[0],
            "forward over reverse": tangents[0],  # not lost in what the forward pass saves
            "forward along the weights": tangents[1],
        }

    assert_close(derivatives(loss), derivatives(reference))


@each_function
def test_vmap_over_any_argument(loss: Loss) -> None:
    logits, target = (tensor.detach() for tensor in logits_and_target(5, 4))
    many = [torch.stack([x, x.flip(0), x.roll(1, 0)]) for x in (logits, target, WEIGHT)]
    for dims in [(0, None, None), (None, 0, None), (0, 0, None), (0, 0, 0), (None, None, 0)]:
        arguments = [x if dim == 0 else x[0] for x, dim in zip(many, dims)]
        looped = [reference(*(x[i] if dim == 0 else x for x, dim in zip(arguments, dims))) for i in range(3)]
        assert_close(vmap(lambda z, t, w: loss(z, t, w), dims)(*arguments), torch.stack(looped))


# Every pair of an argument and a way to compile, and all ways together.
WAYS = list(zip([*ARGUMENTS, *reversed(ARGUMENTS)], product([None, True], [False, True], [False, True])))


@each_function
@pytest.mark.parametrize(("arguments", "way"), WAYS, ids=str)
def test_compile_in_one_graph(loss: Loss, arguments: dict[str, Any], way: tuple[bool | None, bool, bool]) -> None:
    dynamic, probabilities, weighted = way
    if probabilities:
        arguments = {name: value for name, value in arguments.items() if name != "ignore_index"}
    if weighted:
        arguments = arguments | {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0])}

    def value_and_gradient(f: Loss) -> tuple[Tensor, Tensor]:
        logits, target = logits_and_target(5, 4, dtype=torch.float32)
        value = f(logits, probabilities_for(logits) if probabilities else target, **arguments)
        return value, torch.autograd.grad(value.sum(), logits)[0]

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    torch.testing.assert_close(value_and_gradient(compiled), value_and_gradient(reference))


@each_function
def test_compiled_code_is_right_too(loss: Loss) -> None:
    torch._dynamo.reset()  # compiled for any size, on several threads, PyTorch aborts at a wrong target
    logits, target = logits_and_target(33, 10, dtype=torch.float32)
    compiled = torch.compile(loss, fullgraph=True)
    ours, theirs = compiled(logits, target), reference(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits) for value in (ours, theirs)))
    with pytest.raises((IndexError, RuntimeError)):
        compiled(logits, torch.full_like(target, 10))
    for shape in ((17, 12), (40, 11)):  # recompiled for any size
        logits, target = logits_and_target(*shape, dtype=torch.float32)
        torch.testing.assert_close(compiled(logits, target), reference(logits, target))


@each_function
@each_arguments
def test_a_graph_that_was_recorded_on_mild_logits_holds_for_any(loss: Loss, arguments: dict[str, Any]) -> None:
    logits, target = (tensor.detach() for tensor in logits_and_target(5, 4))
    recorded = torch.jit.trace(lambda z, t: loss(z, t, **arguments), (logits, target), check_trace=False)
    logits, target = 200 * logits, target.roll(1)
    assert_close(recorded(logits, target), reference(logits, target, **arguments))


@each_function
def test_tensors_without_values_have_a_loss_and_a_gradient(loss: Loss) -> None:
    """No value is looked at elsewhere than on the CPU: on a GPU the host would wait."""
    for mode, device in ((nullcontext(), "meta"), (FakeTensorMode(), "cpu")):
        with mode:
            logits = torch.empty(5, 4, device=device, requires_grad=True)
            target = torch.empty(5, dtype=torch.long, device=device)
            for arguments in (*ARGUMENTS, {"weight": torch.ones(4, device=device)}):
                value = loss(logits, target, **arguments)
                assert (value.device, value.shape) == (logits.device, reference(logits, target, **arguments).shape)
                assert torch.autograd.grad(value.sum(), logits)[0].shape == (5, 4)
