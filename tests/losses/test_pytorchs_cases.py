"""Every case that PyTorch ships to test its own loss, run on ours."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from tests.helpers.drop_ins import FUNCTIONS, MODULES, Loss, assert_same, each_function, each_module

with patch("torch.backends.disable_global_flags"):  # which would forbid every later test to choose deterministic cuDNN
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

OPERATOR = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
MODULE = next(module for module in module_db if module.module_cls is nn.CrossEntropyLoss)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def samples(dtype: torch.dtype) -> list[Any]:
    return list(OPERATOR.sample_inputs("cpu", dtype, requires_grad=True))


def module_inputs(dtype: torch.dtype) -> list[Any]:
    return list(MODULE.module_inputs_func(MODULE, "cpu", dtype, requires_grad=True, training=True))


def test_the_cases_are_all_there() -> None:
    assert set(DTYPES) == set(OPERATOR.dtypes)
    assert set(DTYPES) >= set(MODULE.dtypes)
    assert min(len(samples(dtype)) for dtype in DTYPES) >= 21
    assert len(module_inputs(torch.float32)) >= 105


@each_function
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operators_samples(loss: Loss, dtype: torch.dtype) -> None:
    for sample in samples(dtype):
        assert_same(loss, sample.input, *sample.args, **sample.kwargs)


@each_module
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_modules_inputs(module: type[nn.Module], dtype: torch.dtype) -> None:
    for case in module_inputs(dtype):
        input, target = case.forward_input.args

        def call(input: Tensor, target: Tensor, **arguments: Any) -> Tensor:
            return module(**arguments)(input, target)

        assert_same(call, input, target, **case.constructor_input.kwargs)
        if case.reference_fn is not None and dtype.itemsize > 2:  # in half types their formula is far off
            loss = module(**case.constructor_input.kwargs)
            expected = case.reference_fn(loss, input.detach(), target.detach())
            torch.testing.assert_close(loss(input, target), expected, equal_nan=True)


def float64_cases(loss: Loss) -> list[tuple[Any, list[Tensor]]]:
    """Each case as a function of its floating-point inputs, and those."""
    cases = []
    for sample in samples(torch.float64):
        target, probabilities = sample.args[0], sample.args[0].is_floating_point()
        inputs = [sample.input, target.detach().requires_grad_()] if probabilities else [sample.input]

        def call(*tensors: Tensor, target: Tensor = target, kwargs: Any = sample.kwargs) -> Tensor:
            return loss(tensors[0], tensors[1] if len(tensors) == 2 else target, **kwargs)

        cases.append((call, [tensor.detach().clone().requires_grad_() for tensor in inputs]))
    name = next(name for name, function in FUNCTIONS.items() if function is loss)
    for case in module_inputs(torch.float64):
        module = MODULES[name](**case.constructor_input.kwargs)
        input, target = (each.detach() for each in case.forward_input.args)

        def forward(logits: Tensor, target: Tensor = target, module: nn.Module = module) -> Tensor:
            return module(logits, target)

        cases.append((forward, [input.clone().requires_grad_()]))
    return [(call, inputs) for call, inputs in cases if call(*inputs).isfinite().all()]


@each_function
def test_gradcheck_forward_mode_too(loss: Loss) -> None:
    cases = float64_cases(loss)
    assert len(cases) > 100
    for call, inputs in cases:
        assert gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True)


@each_function
def test_gradgradcheck_forward_mode_too(loss: Loss) -> None:
    for call, inputs in float64_cases(loss):
        assert gradgradcheck(call, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)
