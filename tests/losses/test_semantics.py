"""The whole argument space, ours against PyTorch's."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import DTYPES, Loss, assert_same, each_function, logits_and_target

Call = tuple[Tensor, Tensor, dict[str, Any]]  # input, target and keyword arguments


@st.composite
def calls(draw: st.DrawFn, special: tuple[float, ...]) -> Call:
    """What PyTorch takes, with one of the special numbers among the logits or not."""
    dtype = draw(st.sampled_from(DTYPES))
    classes = draw(st.integers(1, 6))
    batch = draw(st.lists(st.integers(0, 3), min_size=0, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = [*batch[:1], classes, *batch[1:]]
    input = (draw(st.sampled_from([1e-3, 1.0, 30.0])) * torch.randn(shape, generator=generator)).to(dtype)
    if input.numel() and draw(st.booleans()):
        input.view(-1)[draw(st.integers(0, input.numel() - 1))] = draw(st.sampled_from(special))
    arguments: dict[str, Any] = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    if draw(st.booleans()):  # smoothing below 1e-30 becomes 0 in PyTorch's float32, or in ours
        arguments["label_smoothing"] = draw(st.just(0.0) | st.floats(1e-30, 0.99))
    if draw(st.booleans()):
        arguments["weight"] = torch.rand(classes, generator=generator).to(dtype)
    if draw(st.booleans()):
        target = torch.rand(shape, generator=generator).to(dtype).requires_grad_(draw(st.booleans()))
        return input.requires_grad_(), target, arguments
    target = torch.randint(classes, batch, generator=generator)
    if draw(st.booleans()):
        arguments["ignore_index"] = draw(st.integers(-2, classes))
        ignored = torch.rand(batch, generator=generator) < 0.3
        target = torch.where(ignored, torch.tensor(arguments["ignore_index"]), target)
    if len(shape) < 3 and "label_smoothing" not in arguments and not (target < 0).any() and draw(st.booleans()):
        target = target.to(torch.uint8)  # where PyTorch takes bytes
    return input.requires_grad_(), target, arguments


@each_function
@settings(max_examples=400, deadline=None, derandomize=True)
@given(call=calls((0.0, -torch.inf, torch.nan)))
def test_value_and_gradient_are_pytorchs(loss: Loss, call: Call) -> None:
    input, target, arguments = call
    assert_same(loss, input, target, **arguments)


@each_function
@settings(max_examples=200, deadline=None, derandomize=True)
@given(call=calls((torch.inf,)))
def test_the_value_of_infinite_logits_is_pytorchs(loss: Loss, call: Call) -> None:
    input, target, arguments = call
    assert_same(loss, input.detach(), target.detach(), **arguments)


@each_function
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(3)}], ids=str)
@pytest.mark.parametrize("target", [0, 1])
def test_the_gradient_of_a_row_with_an_infinite_logit_is_nan(loss: Loss, arguments: Any, target: int) -> None:
    """Some of it, of PyTorch's all of it; other rows are as if it was not there."""
    logits = torch.tensor([[torch.inf, 0.5, -1.0], [0.0, 1.0, 2.0]], requires_grad=True)
    values = (f(logits, torch.tensor([target, 2]), reduction="none", **arguments) for f in (loss, reference))
    ours, theirs = (torch.autograd.grad(value.sum(), logits)[0] for value in values)
    assert ours[0].isnan().any() and theirs[0].isnan().all()
    torch.testing.assert_close(ours[1], theirs[1])


@st.composite
def any_calls(draw: st.DrawFn) -> Call:
    """What fits together, or not."""
    shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4)
    input = torch.ones(draw(shapes), dtype=draw(st.sampled_from([torch.float32, torch.float64, torch.int64])))
    dtype = draw(st.sampled_from([torch.int64, torch.int64, torch.uint8, torch.int32, torch.float32, torch.bool]))
    fitting = input.shape[:1] + input.shape[2:] if input.ndim > 1 else torch.Size()
    target = torch.full(draw(st.sampled_from([fitting, input.shape, draw(shapes)])), draw(st.integers(-2, 4))).to(dtype)
    arguments: dict[str, Any] = {}
    if draw(st.booleans()):
        weight_dtype = draw(st.sampled_from([input.dtype, torch.half]))
        arguments["weight"] = torch.ones(draw(st.integers(1, 3)), dtype=weight_dtype)
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
def test_what_pytorch_refuses_is_refused_in_its_words_and_nothing_else(loss: Loss, call: Call) -> None:
    input, target, arguments = call
    try:
        value = reference(input, target, **arguments)
    except (TypeError, ValueError, IndexError, RuntimeError) as theirs:
        with pytest.raises(type(theirs)) as ours:
            loss(input, target, **arguments)
        assert str(ours.value) == str(theirs)
    else:
        torch.testing.assert_close(loss(input, target, **arguments), value, equal_nan=True)


@each_function
def test_inputs_that_are_not_contiguous_or_are_expanded(loss: Loss) -> None:
    logits, target = logits_and_target(6, 4, 5)
    assert_same(loss, logits.transpose(0, 2).contiguous().transpose(0, 2), target)
    assert_same(loss, logits[:, :, ::2], target[:, ::2])
    assert_same(loss, logits[:, :, :1].expand(-1, -1, 5), target[:1].expand(6, -1))
    assert_same(loss, logits[:, :1].expand(-1, 4, -1), target)


@each_function
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_under_autocast_is_pytorchs(loss: Loss, dtype: torch.dtype) -> None:
    logits, target = logits_and_target(5, 4, dtype=dtype)
    for labels, reduction in product((target, logits.detach().softmax(1)), ("mean", "none")):
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = (f(logits, labels, reduction=reduction) for f in (loss, reference))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # and so of one dtype
        assert torch.autograd.grad(ours.sum(), logits)[0].dtype == dtype


@each_function
def test_the_dtypes_of_probabilities_and_weights_are_promoted(loss: Loss) -> None:
    logits, _ = logits_and_target(5, 4, dtype=torch.float32)
    for dtype, weight_dtype in product(DTYPES, DTYPES):
        call = logits, logits.detach().softmax(1).to(dtype), torch.ones(4, dtype=weight_dtype)
        assert loss(*call).dtype == reference(*call).dtype


@each_function
def test_the_default_dtype_does_not_matter(loss: Loss) -> None:
    logits, target = logits_and_target(5, 4, dtype=torch.float32)
    torch.set_default_dtype(torch.float64)
    for labels, smoothing in ((target, 0.0), (target, 0.1), (logits.detach().softmax(1), 0.0)):
        assert_same(loss, logits, labels, label_smoothing=smoothing)
