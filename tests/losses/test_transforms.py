"""What PyTorch's own loss works with, ours works with."""

import copy
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.nn.functional import cross_entropy as reference
from torch.utils.checkpoint import checkpoint

from tests.helpers.drop_ins import Loss, each_function, each_module, logits_and_target

ARGUMENTS = [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"reduction": "none"}]
each_arguments = pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: ",".join(a) or "plain")
# Every pair of an argument and a way to compile, and all ways together.
WAYS = list(zip([*ARGUMENTS, *reversed(ARGUMENTS)], product([None, True], [False, True], [False, True])))


def close(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@each_function
@each_arguments
def test_double_backward(loss: Loss, arguments: dict[str, object]) -> None:
    def second(f: Loss) -> Tensor:
        logits, target = logits_and_target(5, 4)
        (first,) = torch.autograd.grad(f(logits, target, **arguments).sum(), logits, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), logits)[0]

    close(second(loss), second(reference))


@each_function
def test_third_derivative(loss: Loss) -> None:
    logits, target = logits_and_target(3, 4)
    close(*(jacrev(hessian(partial(f, target=target)))(logits.detach()) for f in (loss, reference)))


@each_function
def test_backward_twice_through_one_graph(loss: Loss) -> None:
    logits, target = logits_and_target(5, 4)
    value = loss(logits, target)
    first = torch.autograd.grad(value, logits, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(value, logits)[0])


@each_function
def test_a_gradient_is_the_callers_own(loss: Loss) -> None:
    """Whoever scales a gradient in place, as clipping does, must not scale that of a second backward pass."""
    logits, target = logits_and_target(5, 4)
    value = loss(logits, target)
    first, second = (torch.autograd.grad(value * scale, logits, retain_graph=True)[0] for scale in (1, 3))
    close(second, 3 * first)
    first.mul_(100)
    close(torch.autograd.grad(value, logits)[0], second / 3)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, logits)


@each_function
@each_arguments
def test_gradients_in_a_batch(loss: Loss, arguments: dict[str, object]) -> None:
    def gradients(f: Loss) -> Tensor:
        logits, target = logits_and_target(5, 4)
        value = f(logits, target, **arguments)
        batch = torch.arange(1.0, 3 * value.numel() + 1, dtype=value.dtype).view(3, *value.shape)
        return torch.autograd.grad(value, logits, batch, is_grads_batched=True)[0]

    close(gradients(loss), gradients(reference))


@each_function
@each_arguments
@pytest.mark.parametrize("along", ["input", "target", "weight"])
def test_forward_mode(loss: Loss, arguments: dict[str, object], along: str) -> None:
    logits, target = logits_and_target(5, 4)
    given = {"input": logits.detach(), "target": target, "weight": torch.ones(4, dtype=torch.float64)}
    if along != "input":
        given["target"] = logits.detach().roll(1, 0).softmax(1)
        arguments = {name: value for name, value in arguments.items() if name != "ignore_index"}
    tangent = torch.linspace(-1, 1, given[along].numel(), dtype=torch.float64).view_as(given[along])
    with forward_ad.dual_level():
        given[along] = forward_ad.make_dual(given[along], tangent)
        close(*(forward_ad.unpack_dual(f(**given, **arguments)).tangent for f in (loss, reference)))


@each_function
def test_forward_over_reverse_without_create_graph(loss: Loss) -> None:
    """A Hessian-vector product that must not lose the tangent in what the forward pass saved."""

    def product(f: Loss) -> Tensor:
        logits, target = logits_and_target(5, 4)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(logits, torch.ones_like(logits).cumsum(1))
            (gradient,) = torch.autograd.grad(f(dual, target), dual)
            tangent: Tensor = forward_ad.unpack_dual(gradient).tangent
            return tangent

    close(product(loss), product(reference))


@each_function
@each_arguments
def test_functional_transforms(loss: Loss, arguments: dict[str, object]) -> None:
    logits, target = logits_and_target(5, 4)
    logits = logits.detach()

    def results(f: Loss) -> list[Tensor]:
        def total(z: Tensor) -> Tensor:
            return f(z, target, **arguments).sum()

        return [
            grad(total)(logits),
            jacrev(lambda z: f(z, target, **arguments))(logits),
            jacfwd(lambda z: f(z, target, **arguments))(logits),
            hessian(total)(logits),
            jvp(total, (logits,), (torch.ones_like(logits).cumsum(1),))[1],
            vmap(grad(total))(torch.stack([logits, 2 * logits])),
        ]

    close(results(loss), results(reference))


@each_function
def test_vmap_over_any_argument(loss: Loss) -> None:
    logits, target = logits_and_target(5, 4)
    logits = logits.detach()
    many = torch.stack([logits, -logits, 2 * logits])
    targets = torch.stack([target, target.flip(0), target.roll(1)])
    weights = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def plain(z: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return loss(z, t, w)

    for dims in [(0, None, None), (None, 0, None), (0, 0, None), (0, 0, 0), (None, None, 0)]:
        arguments = [x if d == 0 else x[0] for x, d in zip((many, targets, weights), dims)]
        looped = [reference(*(x[i] if d == 0 else x for x, d in zip(arguments, dims))) for i in range(3)]
        close(vmap(plain, dims)(*arguments), torch.stack(looped))


@each_function
@pytest.mark.parametrize(("arguments", "way"), WAYS, ids=str)
def test_compile_in_one_graph(loss: Loss, arguments: dict[str, object], way: tuple[bool | None, bool, bool]) -> None:
    dynamic, probabilities, weighted = way
    if probabilities:
        arguments = {name: value for name, value in arguments.items() if name != "ignore_index"}
    if weighted:
        arguments = arguments | {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0])}

    def step(f: Loss) -> tuple[Tensor, Tensor]:
        logits, target = logits_and_target(5, 4, dtype=torch.float32)
        value = f(logits, logits.detach().roll(1, 0).softmax(1) if probabilities else target, **arguments)
        return value, torch.autograd.grad(value.sum(), logits)[0]

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    torch.testing.assert_close(step(compiled), step(reference))


@each_function
def test_compiled_code_is_right_too(loss: Loss) -> None:
    torch._dynamo.reset()  # compiled for any size, on several threads, PyTorch aborts at a wrong target
    logits, target = logits_and_target(33, 10, dtype=torch.float32)
    compiled = torch.compile(loss, fullgraph=True)
    value = compiled(logits, target)
    torch.testing.assert_close(value, reference(logits, target))
    torch.testing.assert_close(
        torch.autograd.grad(value, logits), torch.autograd.grad(reference(logits, target), logits)
    )
    with pytest.raises((IndexError, RuntimeError)):
        compiled(logits, torch.full_like(target, 10))
    for shape in ((17, 10), (40, 12)):  # recompiled for any size
        logits, target = logits_and_target(*shape, dtype=torch.float32)
        torch.testing.assert_close(compiled(logits, target), reference(logits, target))


@each_function
@each_arguments
def test_linearize_and_recorded_graphs(loss: Loss, arguments: dict[str, object]) -> None:
    """What is recorded on mild logits holds for any."""
    logits, target = (each.detach() for each in logits_and_target(5, 4))
    if arguments.get("reduction") != "none":
        _, tangent = torch.func.linearize(lambda z: loss(z, target, **arguments), logits)
        expected = jvp(lambda z: reference(z, target, **arguments), (logits,), (torch.ones_like(logits).cumsum(1),))[1]
        close(tangent(torch.ones_like(logits).cumsum(1)), expected)
    recorded = torch.jit.trace(lambda z, t: loss(z, t, **arguments), (logits, target), check_trace=False)
    close(recorded(200 * logits, target.roll(1)), reference(200 * logits, target.roll(1), **arguments))


@each_module
def test_export(module: type[nn.Module]) -> None:
    logits, target = logits_and_target(5, 4, dtype=torch.float32)
    logits = logits.detach()
    exported = torch.export.export(module(label_smoothing=0.1), (logits, target))
    torch.testing.assert_close(exported.module()(logits, target), reference(logits, target, label_smoothing=0.1))


@each_function
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"reduction": "none"}])
def test_meta_and_fake_tensors(loss: Loss, arguments: dict[str, object]) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    meta = torch.empty(5, 4, device="meta", requires_grad=True), torch.empty(5, dtype=torch.long, device="meta")
    value = loss(*meta, **arguments)
    assert (value.device.type, value.shape) == ("meta", reference(*meta, **arguments).shape)
    value.sum().backward()
    with FakeTensorMode():
        fake = torch.empty(5, 4, requires_grad=True), torch.zeros(5, dtype=torch.long)
        value = loss(*fake, **arguments)
        value.sum().backward()
        assert value.shape == reference(*fake, **arguments).shape


@each_module
def test_module_tools(module: type[nn.Module]) -> None:
    logits, target = logits_and_target(5, 4, dtype=torch.float32)
    loss = module(weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    expected = loss(logits, target)
    assert torch.equal(copy.deepcopy(loss)(logits, target), expected)
    assert torch.equal(functional_call(loss, loss.state_dict(), (logits, target)), expected)
    kept = checkpoint(loss, logits, target, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(kept, logits)[0], torch.autograd.grad(expected, logits)[0])
    assert module.__name__ in repr(loss)
