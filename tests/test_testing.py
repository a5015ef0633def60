import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import xent
from tests.helpers.wrong_losses import deaf_to_what_comes_from_above
from xent.losses.impostors import Impostor, gradient_scaled
from xent.recording.errors import BadInput
from xent.testing import assert_same_learning
from xent.training.validate_loss import in_working_type

WEIGHT = torch.ones(10).double().index_fill(0, torch.tensor([3]), 100.0)  # of class 3


@pytest.mark.parametrize(
    ("loss", "classes", "dtype"),
    [
        (xent.CrossEntropyLossFromScratch, 2, torch.float64),
        (xent.FusedCrossEntropyLoss, 10, torch.float64),
        (xent.ArticleCrossEntropyLoss, 100, torch.float64),
        (xent.FusedCrossEntropyLoss, 2, torch.bfloat16),
        (xent.CrossEntropyLossFromScratch, 10, torch.float16),
    ],
)
def test_our_losses_pass(loss: type[nn.Module], classes: int, dtype: torch.dtype) -> None:
    assert_same_learning(loss(), classes=classes, dtype=dtype)


def test_small_gradients_in_float16_are_no_bad_input() -> None:
    """They keep few digits, so that a loss times 8 has not quite 8 times its gradient."""
    assert_same_learning(nn.CrossEntropyLoss(), probabilities=True, dtype=torch.float16)


def test_arguments_are_proved_too() -> None:
    weight, other_weight = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 2.0, 0.5005])
    prove = partial(assert_same_learning, classes=3, ignored=0.2)
    arguments: dict[str, Any] = {"label_smoothing": 0.1, "ignore_index": 1}
    reference = nn.CrossEntropyLoss(weight, **arguments)
    prove(xent.CrossEntropyLossFromScratch(weight, **arguments), reference)
    prove(xent.FusedCrossEntropyLoss(weight, **arguments), reference)
    with pytest.raises(AssertionError, match="training is different"):
        prove(xent.FusedCrossEntropyLoss(other_weight, **arguments), reference)


def test_an_error_of_1e12_in_the_gradient_is_caught() -> None:
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(partial(gradient_scaled, by=1e-12))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_fixed_batch_size_for_one_type_of_logits_is_caught_in_that_type(dtype: torch.dtype) -> None:
    def padded(logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target, reduction="sum") / (32 if logits.dtype == dtype else len(target))

    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(padded, dtype=dtype)


@pytest.mark.parametrize("offset", [1e-9, torch.nan])
def test_a_loss_that_trains_the_same_and_reports_something_else_is_caught(offset: float) -> None:
    with pytest.raises(AssertionError, match=r"the loss has other values, .*\n.*\n  left the floor at step +1\n"):
        assert_same_learning(lambda logits, target: cross_entropy(logits, target) + offset)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "ignored", "weight"),
    [(2, 0.1, None), (10, 0.0, WEIGHT), pytest.param(1000, 0.9, None, marks=pytest.mark.extra)],
)
def test_hard_tasks_tell_right_from_wrong(classes: int, ignored: float, weight: Tensor | None) -> None:
    reference = nn.CrossEntropyLoss(weight)
    prove = partial(assert_same_learning, reference=reference, classes=classes, ignored=ignored)
    prove(xent.FusedCrossEntropyLoss(weight))
    with pytest.raises(AssertionError, match="training is different"):
        prove(lambda logits, target: 1.001 * reference(logits, target))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["gradient_scaled", "small_terms_dropped"])
def test_the_smallest_mistakes_show_where_much_is_ignored(mistake: str) -> None:
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(Impostor(mistake), ignored=0.8)


def test_a_loss_that_overflows_or_clamps_beyond_what_a_short_training_reaches_is_caught() -> None:
    def overflowing(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.exp().sum(1).log() - logits.gather(1, target[:, None])[:, 0]).mean()

    for loss in (overflowing, lambda logits, target: cross_entropy(logits.clamp(-50, 50), target)):
        with pytest.raises(AssertionError, match=r"the loss of logits of 1000 is .*\n  subtract the largest") as caught:
            assert_same_learning(loss)
        assert "same_learning.py" not in str(caught.getrepr()), "pytest shows the call and not our source"


def test_the_reference_may_be_any_function() -> None:
    def squared(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.softmax(1) - nn.functional.one_hot(target, logits.shape[1])).square().sum(1).mean()

    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(nn.CrossEntropyLoss(), squared)


class Scheduled(nn.Module):
    """Smooths less at every step."""

    steps = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.steps += 1
        return cross_entropy(logits, target, label_smoothing=max(0.0, 0.1 - self.steps / 1000))


class InFloat32(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.float(), target)


def test_a_loss_that_counts_its_calls_passes() -> None:
    assert_same_learning(Scheduled(), Scheduled())


def test_a_loss_keeps_the_type_of_its_weights_if_it_takes_these_logits_only_so() -> None:
    loss, (logits, target) = InFloat32(WEIGHT.float()), (torch.zeros(4, 10).bfloat16(), torch.arange(4))
    assert in_working_type(loss, torch.bfloat16, logits, target, "the loss").weight.dtype == torch.float32
    plain = nn.CrossEntropyLoss(WEIGHT.float())
    assert in_working_type(plain, torch.bfloat16, logits, target, "the loss").weight.dtype == torch.bfloat16


def test_targets_that_are_ignored_are_what_a_partial_ignores() -> None:
    loss = partial(cross_entropy, weight=WEIGHT, ignore_index=-1)
    assert_same_learning(loss, loss, ignored=0.3)


def test_loss_random_state_and_threads_are_left_alone() -> None:
    state, threads, loss = torch.get_rng_state(), torch.get_num_threads(), nn.CrossEntropyLoss(torch.ones(3))
    torch.set_num_threads(2)
    try:
        assert_same_learning(loss, nn.CrossEntropyLoss(torch.ones(3)), classes=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert loss.weight is not None and loss.weight.dtype == torch.float32


class WithLock(nn.CrossEntropyLoss):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def asserting(logits: Tensor, target: Tensor) -> Tensor:
    raise AssertionError("mine")


OF_THE_BATCH = r"of float64 logits \[29, 10\] and class indices \[29\] "
NO_LOSS: list[tuple[Any, str]] = [
    (lambda logits: logits.sum(), OF_THE_BATCH + "cannot be computed .TypeError: "),
    (lambda logits, target: logits.sum().item(), OF_THE_BATCH + "is a float: expected a tensor of one number"),
    (nn.CrossEntropyLoss(reduction="none"), OF_THE_BATCH + r"is of shape .29,.: expected one number"),
    (lambda logits, target: logits.detach().sum(), OF_THE_BATCH + "has no gradient: "),
    (nn.CrossEntropyLoss(torch.ones(3)), OF_THE_BATCH + "cannot be computed .RuntimeError"),
    (asserting, "cannot be computed .AssertionError: mine."),
    (nn.CrossEntropyLoss, "is the class CrossEntropyLoss: expected an instance of it"),
    ("torch", "is a str: expected a torch.nn.Module"),
    (deaf_to_what_comes_from_above, "let its backward pass multiply by the gradient from above"),
]


def test_what_cannot_be_trained_with_is_refused_in_a_line() -> None:
    for loss, message in NO_LOSS:
        with pytest.raises(BadInput, match=f"^the loss .*{message}[^\n]*$"):
            assert_same_learning(loss)
        with pytest.raises(BadInput, match=f"^the reference .*{message}[^\n]*$"):
            assert_same_learning(nn.CrossEntropyLoss(), loss)
    with pytest.raises(BadInput, match="^the loss cannot be copied .*: give it as a function, lambda [^\n]*$"):
        assert_same_learning(WithLock())
    with pytest.raises(BadInput, match="^the loss .* cannot be computed .IndexError: "):
        assert_same_learning(xent.ArticleCrossEntropyLoss(), ignored=0.5)


def test_a_task_that_cannot_be_is_refused() -> None:
    for arguments in ({"classes": 1}, {"ignored": 1.0}, {"ignored": -0.1}, {"ignored": 0.1, "probabilities": True}):
        words = ", ".join(f"{name}={value}" for name, value in arguments.items())
        with pytest.raises(ValueError, match=f"{words}.*: expected 2 classes or more, and a part from 0 to below 1"):
            assert_same_learning(nn.CrossEntropyLoss(), **arguments)
    with pytest.raises(ValueError, match="dtype=torch.int64: expected torch.float64, float32, bfloat16 or float16"):
        assert_same_learning(nn.CrossEntropyLoss(), dtype=torch.int64)
