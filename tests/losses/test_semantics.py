"""The whole argument space, ours against PyTorch's, and every case that PyTorch ships to test its own loss."""

from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import DTYPES, Call, Loss, assert_same, logits_and_target

with patch("torch.backends.disable_global_flags"):  # which would forbid every later test to choose deterministic cuDNN
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

OPERATOR = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
MODULE = next(module for module in module_db if module.module_cls is nn.CrossEntropyLoss)


def cases(dtype: torch.dtype) -> list[Call]:
    """PyTorch's, of the operator and of the module."""
    samples = list(OPERATOR.sample_inputs("cpu", dtype, requires_grad=True))
    inputs = list(MODULE.module_inputs_func(MODULE, "cpu", dtype, requires_grad=True, training=True))
    assert len(samples) >= 21 and len(inputs) >= 105, "all are there"
    of_the_module = [(*case.forward_input.args, case.constructor_input.kwargs) for case in inputs]
    return [(sample.input, *sample.args, sample.kwargs) for sample in samples] + of_the_module


def test_value_and_gradient_are_right_in_pytorchs_cases(loss: Loss) -> None:
    assert set(DTYPES) == set(OPERATOR.dtypes) >= set(MODULE.dtypes)
    for input, target, arguments in (case for dtype in DTYPES for case in cases(dtype)):
        assert_same(loss, input, target, **arguments)


@pytest.mark.slow
def test_pytorchs_cases_pass_gradcheck_and_gradgradcheck_in_forward_mode_too(loss: Loss) -> None:
    checked = 0
    for input, target, arguments in cases(torch.float64):
        inputs = [x.detach().clone().requires_grad_() for x in (input, target) if x.is_floating_point()]

        def call(input: Tensor, target: Tensor = target, arguments: Any = arguments) -> Tensor:
            return loss(input, target, **arguments)

        if call(*inputs).isfinite().all():
            checked += 1
            assert gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
            assert gradgradcheck(call, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)
    assert checked > 100


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """What PyTorch takes, with a special number among the logits or not."""
    dtype, classes = draw(st.sampled_from(DTYPES)), draw(st.integers(1, 6))
    batch = draw(st.lists(st.integers(0, 3), min_size=0, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = [*batch[:1], classes, *batch[1:]]
    input = (draw(st.sampled_from([1e-3, 1.0, 30.0])) * torch.randn(shape, generator=generator)).to(dtype)
    if input.numel() and draw(st.booleans()):
        special = draw(st.sampled_from([0.0, -torch.inf, torch.nan, torch.inf]))
        input.view(-1)[draw(st.integers(0, input.numel() - 1))] = special
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


@settings(max_examples=600, deadline=None, derandomize=True)
@given(call=calls())
def test_value_and_gradient_are_pytorchs_and_the_value_alone_of_infinite_logits(loss: Loss, call: Call) -> None:
    input, target, arguments = call
    if torch.inf in input:
        input, target = input.detach(), target.detach()
    assert_same(loss, input, target, **arguments)


def test_the_gradient_of_a_row_with_an_infinite_logit_is_nan(loss: Loss) -> None:
    """Some of it, of PyTorch's all of it; other rows are as if it was not there."""
    logits = torch.tensor([[torch.inf, 0.5, -1.0], [0.0, 1.0, 2.0]], requires_grad=True)
    for arguments, target in product(({}, {"label_smoothing": 0.1}, {"weight": torch.ones(3)}), (0, 1)):
        values = (f(logits, torch.tensor([target, 2]), reduction="none", **arguments) for f in (loss, reference))
        ours, theirs = (torch.autograd.grad(value.sum(), logits)[0] for value in values)
        assert ours[0].isnan().any() and theirs[0].isnan().all()
        torch.testing.assert_close(ours[1], theirs[1])


def test_inputs_that_are_not_contiguous_or_are_expanded(loss: Loss) -> None:
    logits, target = logits_and_target(6, 4, 5)
    assert_same(loss, logits.transpose(0, 2).contiguous().transpose(0, 2), target)
    assert_same(loss, logits[:, :, ::2], target[:, ::2])
    assert_same(loss, logits[:, :, :1].expand(-1, -1, 5), target[:1].expand(6, -1))
    assert_same(loss, logits[:, :1].expand(-1, 4, -1), target)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_pytorchs_under_autocast_too(loss: Loss, dtype: torch.dtype) -> None:
    logits, target = logits_and_target(5, 4, dtype=dtype)
    for labels, reduction in product((target, logits.detach().softmax(1)), ("mean", "none")):
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = (f(logits, labels, reduction=reduction) for f in (loss, reference))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # and so of one dtype
        assert torch.autograd.grad(ours.sum(), logits)[0].dtype == dtype
    for of_probabilities, of_weights in product(DTYPES, DTYPES):
        call = logits, logits.detach().softmax(1).to(of_probabilities), torch.ones(4, dtype=of_weights)
        assert loss(*call).dtype == reference(*call).dtype
    torch.set_default_dtype(torch.float64)  # which does not matter
    for labels, smoothing in ((target, 0.0), (target, 0.1), (logits.detach().softmax(1), 0.0)):
        assert_same(loss, logits, labels, label_smoothing=smoothing)
