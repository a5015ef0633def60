"""Every case that PyTorch ships to test its own loss, run on ours."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from tests.helpers.drop_ins import DTYPES, Loss, assert_same, each_function

with patch("torch.backends.disable_global_flags"):  # which would forbid every later test to choose deterministic cuDNN
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

OPERATOR = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
MODULE = next(module for module in module_db if module.module_cls is nn.CrossEntropyLoss)


def cases(dtype: torch.dtype) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Logits, target and keyword arguments, of the operator and of the module."""
    samples = list(OPERATOR.sample_inputs("cpu", dtype, requires_grad=True))
    inputs = list(MODULE.module_inputs_func(MODULE, "cpu", dtype, requires_grad=True, training=True))
    assert len(samples) >= 21 and len(inputs) >= 105, "all are there"
    of_the_module = [(*case.forward_input.args, case.constructor_input.kwargs) for case in inputs]
    return [(sample.input, *sample.args, sample.kwargs) for sample in samples] + of_the_module


@each_function
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_gradient(loss: Loss, dtype: torch.dtype) -> None:
    assert set(DTYPES) == set(OPERATOR.dtypes) >= set(MODULE.dtypes)
    for input, target, arguments in cases(dtype):
        assert_same(loss, input, target, **arguments)


@each_function
def test_gradcheck_and_gradgradcheck_forward_mode_too(loss: Loss) -> None:
    checked = 0
    for input, target, arguments in cases(torch.float64):
        targets = [target.detach().clone().requires_grad_()] if target.is_floating_point() else []
        inputs = [input.detach().clone().requires_grad_(), *targets]

        def call(input: Tensor, target: Tensor = target, arguments: Any = arguments) -> Tensor:
            return loss(input, target, **arguments)

        if call(*inputs).isfinite().all():
            checked += 1
            assert gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
            assert gradgradcheck(call, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)
    assert checked > 100
