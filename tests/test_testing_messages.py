"""What a failed proof says."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.commands import command
from xent.losses.impostors import Impostor, gradient_scaled
from xent.testing import assert_same_learning
from xent.training.validate_loss import Loss


def message_of(loss: Loss, **arguments: Any) -> list[str]:
    """What a failed proof says, each line without the spaces that align it."""
    with pytest.raises(AssertionError) as caught:
        assert_same_learning(loss, **arguments)
    return [" ".join(line.split()) for line in str(caught.value).splitlines()]


def test_the_message_says_by_how_much_from_when_and_what_was_expected() -> None:
    lines = message_of(lambda logits, target: gradient_scaled(logits, target, by=1e-6))
    assert lines[0] == "training is different from training with the reference"
    assert re.fullmatch(r"decades above the floor 8\.\d, where 2\.0 are rounding", lines[1])
    assert lines[2] == "left the floor at step 1"
    assert lines[3].removeprefix("loss at step 1 ") == lines[4].removeprefix("expected "), "its gradient alone is wrong"
    ours, theirs = (float(line.split()[-1]) for line in lines[5:7])
    assert lines[5].startswith("gradient of logit [")
    assert ours / theirs == pytest.approx(1 + 1e-6, rel=1e-12)
    assert lines[7] == "the gradient is 1.000001 times the reference's: a constant factor"


@pytest.mark.parametrize(
    ("loss", "hint"),
    [
        (Impostor("mean_over_classes_too"), "the gradient is 0.1 times the reference's: a mean over the classes too?"),
        (Impostor("sum_for_mean"), "the gradient is 29 times the reference's: a sum in place of the mean?"),
        (Impostor("logarithm_to_base_2"), "the gradient is 1.442695041 times the reference's: a logarithm to base 2?"),
        (Impostor("lower_precision"), "it seems to compute in float32: judge it with dtype=torch.float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_message_says_what_it_may_be(loss: nn.Module, hint: str) -> None:
    assert message_of(loss)[-1] == hint


def test_the_evidence_is_of_a_step_at_which_the_mistake_was_made() -> None:
    lines = message_of(Impostor("probabilities_clamped"))
    assert int(re.findall(r"loss at step (\d+)", lines[3])[0]) > 32
    assert float(lines[5].split()[-1]) == 0, "the gradient of what is clamped"
    assert float(lines[6].split()[-1]) != 0


def test_pytest_shows_the_call_and_not_our_source() -> None:
    script = "from xent.testing import assert_same_learning\ndef test() -> None:\n    assert_same_learning({})\n"
    loss = "lambda logits, target: 2 * logits.logsumexp(1).mean()"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_it.py").write_text(script.format(loss))
        shown = command("-m", "pytest", "-q", "--rootdir", folder, f"{folder}/test_it.py").stdout
    assert "training is different from training with the reference" in shown
    assert "judge_learning" not in shown


def test_a_loss_that_writes_over_its_targets_is_compared_on_what_they_were() -> None:
    def doubled(logits: Tensor, target: Tensor) -> Tensor:
        loss = 2 * nn.functional.cross_entropy(logits, target.clone())
        target.fill_(0)
        return loss

    assert message_of(doubled)[-1] == "the gradient is 2 times the reference's: a constant factor"


def test_nan_is_different() -> None:
    lines = message_of(lambda logits, target: logits.sum() * torch.nan)
    assert lines[3:5] == ["loss at step 1 nan", lines[4]]
    assert float(lines[4].removeprefix("expected ")) > 2
