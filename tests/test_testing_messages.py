"""What a failed proof says."""

import re

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.helpers.runs import nudged, run
from tests.helpers.wrong_losses import RunningMean
from xent.losses.impostors import Impostor, gradient_scaled
from xent.report.explanation import Evidence, explanation
from xent.testing import assert_same_learning
from xent.training.validate_loss import Loss
from xent.verdict.judging import judge
from xent.verdict.matching import pairs


def message_of(loss: Loss) -> list[str]:
    """What a failed proof says, each line without the spaces that align it."""
    with pytest.raises(AssertionError) as caught:
        assert_same_learning(loss)
    assert "same_learning.py" not in str(caught.getrepr()), "pytest shows the call and not our source"
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


def test_the_evidence_is_of_a_step_at_which_the_mistake_was_made() -> None:
    lines = message_of(Impostor("probabilities_clamped"))
    assert int(re.findall(r"loss at step (\d+)", lines[3])[0]) > 32
    assert float(lines[5].split()[-1]) == 0, "the gradient of what is clamped"
    assert float(lines[6].split()[-1]) != 0
    lines = message_of(RunningMean())
    assert lines[0] == "the loss has other values, though training is the same as with the reference"
    assert float(lines[3].split()[-1]) != float(lines[4].split()[-1]), "at step 1 it is the same"


def test_a_loss_that_writes_over_its_targets_is_compared_on_what_they_were() -> None:
    def doubled(logits: Tensor, target: Tensor) -> Tensor:
        loss = 2 * cross_entropy(logits, target.clone())
        target.fill_(0)
        return loss

    assert message_of(doubled)[-1] == "the gradient is 2 times the reference's: a constant factor"


def test_nan_is_different() -> None:
    lines = message_of(lambda logits, target: logits.sum() * torch.nan)
    assert lines[3:5] == ["loss at step 1 nan", lines[4]]
    assert float(lines[4].removeprefix("expected ")) > 2


(DIFFERENT,) = judge(pairs([*nudged(1e-15, 1e-15), run("scratch", 1e-3)]))
GRADIENT = torch.randn(29, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gradient_that_is_rounded_coarsely_comes_with_how_it_is_judged(dtype: torch.dtype) -> None:
    evidence = Evidence(1, 2.0, 2.0, GRADIENT.to(dtype).double(), GRADIENT)
    hint = f"it seems to compute in {str(dtype)[6:]}: judge it with dtype={dtype}"
    assert explanation(DIFFERENT, "", evidence).endswith(f"\n  {hint}")
    assert "it seems" not in explanation(DIFFERENT, "", evidence, torch.float32)


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        ("0.1", "a mean over the classes too?"),
        ("29", "a sum in place of the mean?"),
        ("1.442695041", "a logarithm to base 2?"),
        ("-1", "a sign?"),
        ("0.5", "a constant factor"),
    ],
)
def test_a_constant_factor_of_the_gradient_is_told_with_a_likely_cause(factor: str, cause: str) -> None:
    message = explanation(DIFFERENT, "", Evidence(1, 2.0, 2.0, float(factor) * GRADIENT, GRADIENT))
    assert message.endswith(f"\n  the gradient is {factor} times the reference's: {cause}")
