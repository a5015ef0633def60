"""What autograd, transforms and compilers make of our losses is what they make of PyTorch's own."""

from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import grad, hessian, jacrev, linearize, vmap
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import ARGUMENTS, DTYPES, WEIGHT, Loss, each_arguments, logits_and_target, probabilities_for
from xent import cross_entropy, fused_cross_entropy

FOUR: list[dict[str, Any]] = [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"reduction": "none"}]


def assert_close(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


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


@pytest.mark.parametrize("of_class", [torch.inf, torch.nan])
def test_an_ignored_target_has_gradient_0_whatever_the_weights(loss: Loss, of_class: float) -> None:
    """One over a count of 0 is infinite, and such a class may be the one that stands in for an ignored target."""
    logits, target = logits_and_target(6, 4)
    target, weight = torch.tensor([-100, 1, 2, -100, 3, 1]), torch.tensor([of_class, 1, 2, 3], dtype=logits.dtype)
    expected = torch.autograd.grad(reference(logits, target, weight), logits)[0]
    assert expected.isfinite().all()
    compiled = torch.compile(loss, backend="aot_eager")
    assert_close(torch.autograd.grad(loss(logits, target, weight), logits)[0], expected)
    assert_close(torch.autograd.grad(compiled(logits, target, weight), logits)[0], expected)
    assert_close(grad(loss)(logits, target, weight), expected)


def test_a_gradient_is_the_callers_own(loss: Loss) -> None:
    """Whoever scales a gradient in place, as clipping does, must not scale that of a second backward pass."""
    logits, target = logits_and_target(5, 4)
    value = loss(logits, target)
    first, second = (torch.autograd.grad(value * scale, logits, retain_graph=True)[0] for scale in (1, 3))
    assert_close(second, 3 * first)
    first.mul_(100)
    assert_close(torch.autograd.grad(value, logits)[0], second / 3)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, logits)


def bytes_kept(loss: Loss, *call: Any, **arguments: Any) -> int:
    """What autograd keeps for the backward pass, and nothing else may keep a tensor by a name."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        nodes = [loss(*call, **arguments).grad_fn]
    for node in nodes:
        nodes += [function for function, _ in node.next_functions if function is not None]
        assert not [value for value in getattr(node, "__dict__", {}).values() if isinstance(value, Tensor)]
    return sum(storages.values())


@each_arguments
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_keeps_no_more_than_pytorch_does(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    logits, target = logits_and_target(500, 200, dtype=dtype)
    weight = {"weight": torch.ones(200, dtype=dtype)} if "weight" in arguments else {}
    for labels in (target, logits.detach().softmax(1)):
        ours, theirs = (bytes_kept(f, logits, labels, **arguments | weight) for f in (fused_cross_entropy, reference))
        if dtype.itemsize < 4 and (labels is not target or "label_smoothing" in arguments):
            theirs *= 2  # PyTorch rounds before, ours keeps float32
        assert ours <= theirs + 500 * 32, "a few numbers of each row"


@each_arguments
def test_no_gradient_is_silently_wrong_after_logits_were_written_over(loss: Loss, arguments: dict[str, Any]) -> None:
    """It is right, or where scratch keeps the logits, an error."""

    def gradient(f: Loss, probabilities: bool, shape: tuple[int, ...]) -> Tensor:
        leaf, target = logits_and_target(*shape)
        logits = 2 * leaf
        value = f(logits, probabilities_for(logits) if probabilities else target, **arguments)
        with torch.no_grad():
            logits.clamp_(-0.1, 0.1)
        return torch.autograd.grad(value.sum(), leaf)[0]

    for case in ((False, (6, 4, 2, 3)), (True, (6, 4)), (False, (6, 4))):
        keeps_them = loss is cross_entropy and not case[0] and "label_smoothing" not in arguments
        with pytest.raises(RuntimeError, match="modified by an inplace operation") if keeps_them else nullcontext():
            torch.testing.assert_close(gradient(loss, *case), gradient(reference, *case))


@pytest.mark.parametrize("arguments", [ARGUMENTS[i] for i in (0, 3, 5, 6, 8, 11)], ids=str)  # every pair
def test_what_is_saved_may_be_moved_elsewhere_and_the_backward_pass_be_compiled(loss: Loss, arguments: Any) -> None:
    logits, target = logits_and_target(6, 4)
    with save_on_cpu():
        values = [f(logits, target, **arguments).sum() for f in (loss, reference)]
    moved, expected = (torch.autograd.grad(value, logits)[0] for value in values)
    torch.testing.assert_close(moved, expected)
    torch._dynamo.reset()
    value = loss(logits, target, **arguments).sum()
    with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager", fullgraph=True)):
        value.backward()
    torch.testing.assert_close(logits.grad, expected)


def test_float16_has_the_small_gradients_of_a_scaled_loss_and_second_derivatives() -> None:
    """A gradient below what float16 has, times a loss scale, is there again."""
    logits, target = logits_and_target(5, 4, dtype=torch.float16)

    def derivatives(f: Loss, dtype: torch.dtype) -> list[Tensor]:
        small, some = (x.detach().to(dtype).requires_grad_() for x in (torch.tensor([[0.0, -18.0, -9.0]]), logits))
        (scaled,) = torch.autograd.grad(f(small, torch.tensor([0])) * 2.0**15, small)
        (first,) = torch.autograd.grad(f(some, target), some, create_graph=True)
        return [scaled.double(), torch.autograd.grad(first.pow(2).sum(), some)[0].double()]

    ours, theirs = derivatives(fused_cross_entropy, torch.float16), derivatives(reference, torch.float64)
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-3, atol=0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("arguments", FOUR, ids=str)
def test_transforms_that_differentiate(loss: Loss, arguments: dict[str, Any]) -> None:
    leaf, target = logits_and_target(5, 4)
    logits, direction = leaf.detach(), torch.ones(5, 4, dtype=torch.float64).cumsum(1)

    def derivatives(f: Loss) -> dict[str, Tensor]:
        def values(z: Tensor) -> Tensor:
            return f(z, target, **arguments)

        def total(z: Tensor) -> Tensor:
            return values(z).sum()

        batch = 1 + torch.arange(3.0 * values(logits).numel(), dtype=torch.float64).view(3, *values(logits).shape)
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


def test_vmap_over_any_argument(loss: Loss) -> None:
    logits, target = (tensor.detach() for tensor in logits_and_target(5, 4))
    many = [torch.stack([x, x.flip(0), x.roll(1, 0)]) for x in (logits, target, WEIGHT)]
    for dims in [(0, None, None), (None, 0, None), (0, 0, None), (0, 0, 0), (None, None, 0)]:
        arguments = [x if dim == 0 else x[0] for x, dim in zip(many, dims)]
        looped = [reference(*(x[i] if dim == 0 else x for x, dim in zip(arguments, dims))) for i in range(3)]
        assert_close(vmap(lambda z, t, w: loss(z, t, w), dims)(*arguments), torch.stack(looped))


# Every pair of an argument and a way to compile, and all ways together.
WAYS = list(zip([*FOUR, *reversed(FOUR)], product([None, True], [False, True], [False, True])))


@pytest.mark.parametrize(("arguments", "way"), WAYS, ids=str)
def test_compile_in_one_graph(loss: Loss, arguments: dict[str, Any], way: tuple[bool | None, bool, bool]) -> None:
    dynamic, probabilities, weighted = way
    logits, target = logits_and_target(5, 4, dtype=torch.float32)
    if probabilities:
        target, arguments = probabilities_for(logits), arguments | {"ignore_index": -100}
    if weighted:
        arguments = arguments | {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0])}
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    ours, theirs = (f(logits, target, **arguments) for f in (compiled, reference))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logits) for value in (ours, theirs)))


@pytest.mark.slow
def test_compiled_code_is_right_too(loss: Loss) -> None:
    torch._dynamo.reset()  # compiled for any size, on several threads, PyTorch aborts at a wrong target
    logits, target = logits_and_target(33, 10, dtype=torch.float32)
    compiled = torch.compile(loss, fullgraph=True)
    ours, theirs = compiled(logits, target), reference(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits) for value in (ours, theirs)))
    with pytest.raises((IndexError, RuntimeError)):
        compiled(logits, torch.full_like(target, 10))
    for shape in ((17, 12), (40, 11)):  # recompiled for any size, and right for logits that are not as mild
        logits, target = logits_and_target(*shape, dtype=torch.float32)
        torch.testing.assert_close(compiled(200 * logits, target), reference(200 * logits, target))


def test_tensors_without_values_have_a_loss_and_a_gradient(loss: Loss) -> None:
    """No value is looked at elsewhere than on the CPU: on a GPU the host would wait."""
    for mode, device in ((nullcontext(), "meta"), (FakeTensorMode(), "cpu")):
        with mode:
            logits = torch.empty(5, 4, device=device, requires_grad=True)
            target = torch.empty(5, dtype=torch.long, device=device)
            for arguments in (*FOUR, {"weight": torch.ones(4, device=device)}):
                value = loss(logits, target, **arguments)
                assert (value.device, value.shape) == (logits.device, reference(logits, target, **arguments).shape)
                assert torch.autograd.grad(value.sum(), logits)[0].shape == (5, 4)
