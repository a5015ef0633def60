"""The whole argument space, ours against PyTorch's."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import Loss, assert_same, assert_same_value, each_function, logits_and_target

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SPECIAL = (0.0, -torch.inf, torch.nan)


@st.composite
def calls(draw: st.DrawFn, special: tuple[float, ...] = SPECIAL) -> tuple[Tensor, Tensor, dict[str, object]]:
    """Input, with one of the special numbers or not, target and keyword arguments that PyTorch takes."""
    dtype = draw(st.sampled_from(DTYPES))
    classes = draw(st.integers(1, 6))
    batch = draw(st.lists(st.integers(0, 3), min_size=0, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = [*batch[:1], classes, *batch[1:]]
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    input = (scale * torch.randn(shape, generator=generator)).to(dtype)
    if input.numel() and draw(st.booleans()):
        input.view(-1)[draw(st.integers(0, input.numel() - 1))] = draw(st.sampled_from(special))
    arguments: dict[str, object] = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    if draw(st.booleans()):
        smoothing = st.just(0.0) | st.floats(1e-30, 0.99)  # smaller ones become 0 in PyTorch's float32, or in ours
        arguments["label_smoothing"] = draw(smoothing)
    if draw(st.booleans()):
        arguments["weight"] = torch.rand(classes, generator=generator).to(dtype)
    if draw(st.booleans()):
        return input, torch.rand(shape, generator=generator).to(dtype).requires_grad_(draw(st.booleans())), arguments
    target = torch.randint(classes, batch, generator=generator)
    if draw(st.booleans()):
        arguments["ignore_index"] = draw(st.integers(-2, classes))
        ignored = torch.rand(batch, generator=generator) < 0.3
        target = torch.where(ignored, torch.tensor(arguments["ignore_index"]), target)
    plain = len(shape) < 3 and "label_smoothing" not in arguments and not (target < 0).any()
    if plain and draw(st.booleans()):  # where PyTorch takes bytes
        target = target.to(torch.uint8)
    return input, target, arguments


@each_function
@settings(max_examples=400, deadline=None, derandomize=True)
@given(call=calls())
def test_value_and_gradient_are_pytorchs(loss: Loss, call: tuple[Tensor, Tensor, dict[str, object]]) -> None:
    input, target, arguments = call
    assert_same(loss, input, target, **arguments)


@each_function
@settings(max_examples=200, deadline=None, derandomize=True)
@given(call=calls((torch.inf,)))
def test_the_value_of_infinite_logits_is_pytorchs(loss: Loss, call: tuple[Tensor, Tensor, dict[str, object]]) -> None:
    assert_same_value(loss, *call[:2], **call[2])


@each_function
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(3)}], ids=str)
def test_the_gradient_of_a_row_with_an_infinite_logit_is_seen_to_be_wrong(
    loss: Loss, target: int, arguments: dict[str, object]
) -> None:
    """Some of it is NaN, of PyTorch's all of it; other rows are as if it was not there."""
    logits = torch.tensor([[torch.inf, 0.5, -1.0], [0.0, 1.0, 2.0]], requires_grad=True)
    targets = torch.tensor([target, 2])
    ours, theirs = (
        torch.autograd.grad(f(logits, targets, reduction="none", **arguments).sum(), logits)[0]
        for f in (loss, reference)
    )
    assert ours[0].isnan().any() and theirs[0].isnan().all()
    torch.testing.assert_close(ours[1], theirs[1])


@st.composite
def any_calls(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, object]]:
    """Input, target and keyword arguments, fitting or not."""
    shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4)
    input = torch.ones(draw(shapes), dtype=draw(st.sampled_from([torch.float32, torch.float64, torch.int64])))
    dtype = draw(st.sampled_from([torch.int64, torch.int64, torch.uint8, torch.int32, torch.float32, torch.bool]))
    fitting = input.shape[:1] + input.shape[2:] if input.ndim > 1 else torch.Size()
    target = torch.full(draw(st.sampled_from([fitting, input.shape, draw(shapes)])), draw(st.integers(-2, 4))).to(dtype)
    arguments: dict[str, object] = {}
    if draw(st.booleans()):
        arguments["weight"] = torch.ones(
            draw(st.integers(1, 3)), dtype=draw(st.sampled_from([input.dtype, torch.half]))
        )
    if draw(st.booleans()):
        arguments["reduction"] = draw(st.sampled_from(["mean", "sum", "none", "average", ""]))
    if dtype != torch.uint8 and draw(st.booleans()):  # PyTorch's smoothing stumbles over bytes, ours does not
        arguments["label_smoothing"] = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    if draw(st.booleans()):
        arguments["ignore_index"] = draw(st.integers(-2, 2))
    return input, target, arguments


@each_function
@settings(max_examples=600, deadline=None, derandomize=True)
@given(call=any_calls())
def test_what_pytorch_refuses_is_refused_and_nothing_else(
    loss: Loss, call: tuple[Tensor, Tensor, dict[str, object]]
) -> None:
    input, target, arguments = call
    expected = None
    try:
        value = reference(input, target, **arguments)  # type: ignore[arg-type]
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        expected = type(error)
    with pytest.raises(expected) if expected else contextlib.nullcontext():
        torch.testing.assert_close(loss(input, target, **arguments), value, equal_nan=True)


@each_function
def test_inputs_that_are_not_contiguous_or_are_expanded(loss: Loss) -> None:
    logits, target = logits_and_target(6, 4, 5)
    assert_same(loss, logits.transpose(0, 2).contiguous().transpose(0, 2), target)
    assert_same(loss, logits[:, :, ::2], target[:, ::2])
    assert_same(loss, logits[:, :, :1].expand(-1, -1, 5), target[:1].expand(6, -1))
    torch.testing.assert_close(
        loss(logits[:, :1].expand(-1, 4, -1), target), reference(torch.zeros(6, 4, 5).double(), target)
    )


@each_function
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_dtype_under_autocast_is_pytorchs(loss: Loss, dtype: torch.dtype, reduction: str) -> None:
    logits, target = logits_and_target(5, 4, dtype=dtype)
    for each in (target, logits.detach().softmax(1)):
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = (f(logits, each, reduction=reduction) for f in (loss, reference))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # and so of one dtype
        assert torch.autograd.grad(ours.sum(), logits)[0].dtype == dtype


@each_function
def test_the_default_dtype_does_not_matter(loss: Loss) -> None:
    logits, target = logits_and_target(5, 4, dtype=torch.float32)
    expected = loss(logits, target, label_smoothing=0.1), loss(logits, target), loss(logits, logits.softmax(1))
    torch.set_default_dtype(torch.float64)
    found = loss(logits, target, label_smoothing=0.1), loss(logits, target), loss(logits, logits.softmax(1))
    assert [each.dtype for each in found] == [torch.float32] * 3
    assert all(map(torch.equal, found, expected))
