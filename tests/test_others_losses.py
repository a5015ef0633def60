"""Losses as others write them, each judged in one precision; benchmarks/verdict.py judges them in all."""

import pytest

from tests.helpers.right_losses import RIGHT
from tests.helpers.wrong_losses import WRONG
from xent.recording.errors import BadInput
from xent.testing import assert_same_learning

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loss_passes(name: str) -> None:
    case = RIGHT[name]
    assert_same_learning(case.loss, case.reference, dtype=case.tested_in, **case.task)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_does_not(name: str) -> None:
    case = WRONG[name]
    refused = name == "deaf to the gradient from above"
    with pytest.raises(BadInput if refused else AssertionError):
        assert_same_learning(case.loss, case.reference, dtype=case.tested_in, **case.task)
