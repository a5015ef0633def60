import pytest
import torch
from torch import Tensor, nn

import xent
from xent.losses.impostors import gradient_scaled
from xent.testing import assert_same_learning, judge_learning
from xent.training.errors import BadInput

FULL = [nn.CrossEntropyLoss, xent.CrossEntropyLossFromScratch, xent.FusedCrossEntropyLoss]
CORRECT = [*FULL, xent.ArticleCrossEntropyLoss]


@pytest.mark.parametrize("loss", CORRECT)
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_correct_loss_passes(loss: type[nn.Module], classes: int) -> None:
    assert_same_learning(loss(), classes=classes)


@pytest.mark.parametrize("loss", FULL)
def test_its_arguments_are_proved_too(loss: type[nn.CrossEntropyLoss]) -> None:
    weight = torch.tensor([1.0, 2.0, 0.5])
    for arguments in ({"weight": weight}, {"label_smoothing": 0.1}, {"ignore_index": 1}):
        assert_same_learning(loss(**arguments), nn.CrossEntropyLoss(**arguments), classes=3, ignored=0.2)
    with pytest.raises(AssertionError):
        assert_same_learning(loss(weight), nn.CrossEntropyLoss(weight * torch.tensor([1, 1, 1.001])), classes=3)


def test_the_message_says_by_how_much_from_when_and_the_first_wrong_values() -> None:
    def late(logits: Tensor, target: Tensor) -> Tensor:
        return gradient_scaled(logits, target, by=1e-6)

    with pytest.raises(AssertionError) as caught:
        assert_same_learning(late)
    message = str(caught.value)
    assert "decades above the floor of rounding" in message
    assert "from step 1 on; loss at step 2: " in message, "the first loss is right, its gradient is not"
    ours, theirs = (float(part.split()[0]) for part in message.split("of the first batch: ")[1].split(", expected "))
    assert ours / theirs == pytest.approx(1 + 1e-6, rel=1e-12)


def test_an_error_of_1e12_in_the_gradient_is_caught() -> None:
    judgement = judge_learning(
        lambda logits, target: gradient_scaled(logits, target, by=1e-12), nn.CrossEntropyLoss(), classes=10, ignored=0
    )
    assert judgement.verdict == "different"


def test_nan_is_different() -> None:
    with pytest.raises(AssertionError, match="loss at step 1: nan, expected 2"):
        assert_same_learning(lambda logits, target: logits.sum() * torch.nan)


def test_a_loss_that_trains_the_same_and_reports_something_else_is_caught() -> None:
    def twice_the_value(logits: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, target)
        return loss + loss.detach()

    def nan_for_a_value(logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, target) + torch.nan

    def a_billionth_more(logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, target) + 1e-9

    for loss in (twice_the_value, nan_for_a_value, a_billionth_more):
        says = "the loss has other values, though training is the same as .* from step 1 on; loss at step 1: "
        with pytest.raises(AssertionError, match=says):
            assert_same_learning(loss)


def test_a_fixed_number_in_place_of_the_batch_size_is_different() -> None:
    for size in (32, 64, 128):
        with pytest.raises(AssertionError):
            assert_same_learning(
                lambda logits, target, n=size: nn.functional.cross_entropy(logits, target, reduction="sum") / n
            )


def test_what_cannot_be_trained_with_is_refused() -> None:
    given = r"the loss of logits \[2, 10\] and class indices \[2\] "
    refused = {
        "cannot be computed .TypeError: ": lambda logits: logits.sum(),
        "is a float: expected a tensor of one number": lambda logits, target: logits.sum().item(),
        r"is of shape .2,.: expected one number": nn.CrossEntropyLoss(reduction="none"),
        "has no gradient: ": lambda logits, target: logits.detach().sum(),
    }
    for says, loss in refused.items():
        with pytest.raises(BadInput, match=given + says):
            assert_same_learning(loss)


def test_it_leaves_the_loss_and_the_random_state_alone() -> None:
    state, threads, loss = torch.get_rng_state(), torch.get_num_threads(), nn.CrossEntropyLoss(torch.ones(3))
    assert_same_learning(loss, nn.CrossEntropyLoss(torch.ones(3)), classes=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert loss.weight is not None and loss.weight.dtype == torch.float32


def test_a_task_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="classes=1, ignored=0.0: expected 2 classes or more"):
        assert_same_learning(nn.CrossEntropyLoss(), classes=1)
