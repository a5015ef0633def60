"""Losses as others write them: the right ones pass in every precision that they compute in, the wrong ones do not."""

import pytest
import torch

from tests.helpers.right_losses import RIGHT
from tests.helpers.wrong_losses import WRONG
from xent.recording.errors import BadInput
from xent.testing import assert_same_learning

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name, case in RIGHT.items() for dtype in case.dtypes], ids=str
)
def test_a_right_loss_passes(name: str, dtype: torch.dtype) -> None:
    case = RIGHT[name]
    assert_same_learning(case.loss, case.reference, dtype=dtype, **case.task)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name, case in WRONG.items() for dtype in case.dtypes], ids=str
)
def test_a_wrong_loss_does_not(name: str, dtype: torch.dtype) -> None:
    case = WRONG[name]
    with pytest.raises((AssertionError, BadInput)) as caught:
        assert_same_learning(case.loss, case.reference, dtype=dtype, **case.task)
    refused = isinstance(caught.value, BadInput)
    assert refused == (name == "deaf to the gradient from above"), caught.value
