import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import xent
from tests.helpers.right_losses import by_powers_of_2
from tests.helpers.wrong_losses import deaf_to_what_comes_from_above
from xent.losses.impostors import MISTAKES, Impostor, gradient_scaled
from xent.recording.errors import BadInput
from xent.testing import assert_same_learning

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


def test_an_error_of_1e12_in_the_gradient_is_caught() -> None:
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(lambda logits, target: gradient_scaled(logits, target, by=1e-12))


def test_a_loss_that_trains_the_same_and_reports_something_else_is_caught() -> None:
    def twice_the_value(logits: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(logits, target)
        return loss + loss.detach()

    def nan_for_a_value(logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target) + torch.nan

    def a_billionth_more(logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target) + 1e-9

    for loss in (twice_the_value, nan_for_a_value, a_billionth_more):
        with pytest.raises(AssertionError, match=r"the loss has other values, .*\n.*\n  left the floor at step +1\n"):
            assert_same_learning(loss)


def test_a_fixed_number_in_place_of_the_batch_size_is_different() -> None:
    for size in (32, 64, 128):
        with pytest.raises(AssertionError):
            assert_same_learning(lambda logits, target, n=size: cross_entropy(logits, target, reduction="sum") / n)


def test_what_cannot_be_trained_with_is_refused() -> None:
    given = r"the loss of float64 logits \[29, 10\] and class indices \[29\] "
    refused = {
        "cannot be computed .TypeError: ": lambda logits: logits.sum(),
        "is a float: expected a tensor of one number": lambda logits, target: logits.sum().item(),
        r"is of shape .29,.: expected one number": nn.CrossEntropyLoss(reduction="none"),
        "has no gradient: ": lambda logits, target: logits.detach().sum(),
    }
    for says, loss in refused.items():
        with pytest.raises(BadInput, match=given + says):
            assert_same_learning(loss)


class WithLock(nn.CrossEntropyLoss):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_be_judged_is_said_in_one_line() -> None:
    def asserting(logits: Tensor, target: Tensor) -> Tensor:
        raise AssertionError("mine")

    refused: list[tuple[Any, dict[str, Any], str]] = [
        (deaf_to_what_comes_from_above, {}, "let its backward pass multiply by the gradient from above"),
        (WithLock(), {}, "the loss cannot be copied .*: give it as a function, lambda logits, target: loss"),
        (nn.CrossEntropyLoss, {}, r"the loss is the class CrossEntropyLoss: expected an instance of it"),
        (asserting, {}, "cannot be computed .AssertionError: mine."),
        (xent.ArticleCrossEntropyLoss(), {"ignored": 0.5}, "cannot be computed .IndexError: "),
    ]
    for loss, arguments, says in refused:
        with pytest.raises(BadInput, match=says) as caught:
            assert_same_learning(loss, **arguments)
        assert "\n" not in str(caught.value)


def test_a_reference_that_cannot_be_trained_with_is_refused_too() -> None:
    refused = {
        "the reference is the class CrossEntropyLoss: expected an instance": nn.CrossEntropyLoss,
        "the reference is a str: expected a torch.nn.Module": "torch",
        r"the reference of float64 logits .* is of shape .29,.: expected one number": nn.CrossEntropyLoss(
            reduction="none"
        ),
        "the reference of .* cannot be computed .RuntimeError": nn.CrossEntropyLoss(torch.ones(3)),
    }
    for says, reference in refused.items():
        with pytest.raises(BadInput, match=says):
            assert_same_learning(nn.CrossEntropyLoss(), reference)


class Scheduled(nn.Module):
    """Smooths less at every step."""

    steps = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.steps += 1
        return cross_entropy(logits, target, label_smoothing=max(0.0, 0.1 - self.steps / 1000))


class InFloat32(nn.Module):
    """Holds weights, and computes with them in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", W10.float())

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits.float(), target, self.weight)


def test_losses_that_count_their_calls_or_keep_their_weights_in_float32_pass() -> None:
    assert_same_learning(Scheduled(), Scheduled())
    assert_same_learning(InFloat32(), nn.CrossEntropyLoss(W10), dtype=torch.bfloat16)
    weighted = partial(cross_entropy, weight=torch.ones(10))
    assert_same_learning(weighted, weighted, dtype=torch.float32)
    assert_same_learning(*[partial(cross_entropy, ignore_index=-1)] * 2, ignored=0.3)


def test_a_mistake_of_a_half_type_alone_is_none_of_its_rounding() -> None:
    def padded(logits: Tensor, target: Tensor) -> Tensor:
        rows = 32 if logits.dtype == torch.bfloat16 else len(target)
        return cross_entropy(logits, target, reduction="sum") / rows

    assert_same_learning(padded, dtype=torch.float32)
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(padded, dtype=torch.bfloat16)


def test_a_loss_that_overflows_or_clamps_beyond_what_a_short_training_reaches_is_caught() -> None:
    def overflowing(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.exp().sum(1).log() - logits.gather(1, target[:, None])[:, 0]).mean()

    for loss in (overflowing, lambda logits, target: cross_entropy(logits.clamp(-50, 50), target)):
        with pytest.raises(AssertionError, match=r"the loss of logits of 1000 is .*\n  subtract the largest"):
            assert_same_learning(loss, dtype=torch.float32)


W10, W100 = (torch.ones(10).double().index_fill(0, torch.tensor([3]), weight) for weight in (10.0, 100.0))
HARD = {
    "two classes, some ignored": (nn.CrossEntropyLoss(), {"classes": 2, "ignored": 0.1}),
    "nine in ten ignored": (nn.CrossEntropyLoss(), {"ignored": 0.9}),
    "1000 classes": (nn.CrossEntropyLoss(), {"classes": 1000}),
    "1000 classes, nine in ten ignored": (nn.CrossEntropyLoss(), {"classes": 1000, "ignored": 0.9}),
    "a sum": (nn.CrossEntropyLoss(reduction="sum"), {}),
    "a class of weight 10": (nn.CrossEntropyLoss(W10), {}),
    "a class of weight 100": (nn.CrossEntropyLoss(W100), {}),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), {}),
    "logits with places": (nn.CrossEntropyLoss(), {"places": (6,), "ignored": 0.3}),
    "probabilities": (nn.CrossEntropyLoss(), {"probabilities": True}),
    "probabilities with places": (nn.CrossEntropyLoss(), {"probabilities": True, "places": (2, 3)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", HARD)
def test_every_task_tells_right_from_wrong(task: str) -> None:
    reference, arguments = HARD[task]
    of_reference = {name: getattr(reference, name) for name in ("weight", "reduction", "label_smoothing")}
    assert_same_learning(xent.FusedCrossEntropyLoss(**of_reference), reference, **arguments)
    wrong = {
        "a factor": lambda logits, target: 1.001 * reference(logits, target),
        "nothing": lambda logits, target: 0 * logits.sum(),
    }
    for loss in wrong.values():
        with pytest.raises(AssertionError):
            assert_same_learning(loss, reference, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [0.8])
def test_no_impostor_passes_where_much_is_ignored(ignored: float) -> None:
    for mistake in MISTAKES:
        with pytest.raises(AssertionError):
            assert_same_learning(Impostor(mistake), ignored=ignored)


@pytest.mark.slow
def test_a_kernel_in_float32_is_judged_in_float32() -> None:
    def kernel(logits: Tensor, target: Tensor) -> Tensor:
        return xent.cross_entropy(logits.float(), target).to(logits.dtype)

    with pytest.raises(AssertionError, match="it seems to compute in float32: judge it with dtype=torch.float32"):
        assert_same_learning(kernel)
    assert_same_learning(kernel, dtype=torch.float32)
    for loss in (*CORRECT, lambda: by_powers_of_2):
        assert_same_learning(loss(), dtype=torch.float32)
    for wrong in (partial(gradient_scaled, by=1e-5), Impostor("probabilities_clamped"), lambda z, t: 0 * z.sum()):
        with pytest.raises(AssertionError):
            assert_same_learning(wrong, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_right_kernels_of_half_types_pass_and_wrong_ones_do_not(dtype: torch.dtype) -> None:
    for loss in (*CORRECT, lambda: by_powers_of_2):
        assert_same_learning(loss(), dtype=dtype)
    for wrong in (partial(gradient_scaled, by=0.5), Impostor("sum_for_mean"), lambda z, t: 0 * z.sum()):
        with pytest.raises(AssertionError):
            assert_same_learning(wrong, dtype=dtype)


def test_the_reference_may_be_any_function() -> None:
    def squared(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.softmax(1) - nn.functional.one_hot(target, logits.shape[1])).square().sum(1).mean()

    assert_same_learning(lambda logits, target: squared(logits, target), squared)
    with pytest.raises(AssertionError):
        assert_same_learning(nn.CrossEntropyLoss(), squared)


def test_it_leaves_the_loss_and_the_random_state_alone() -> None:
    state, threads, loss = torch.get_rng_state(), torch.get_num_threads(), nn.CrossEntropyLoss(torch.ones(3))
    assert_same_learning(loss, nn.CrossEntropyLoss(torch.ones(3)), classes=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert loss.weight is not None and loss.weight.dtype == torch.float32


def test_a_task_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="classes=1, ignored=0.0, probabilities=False: expected 2 classes or more"):
        assert_same_learning(nn.CrossEntropyLoss(), classes=1)
    with pytest.raises(ValueError, match="dtype=torch.int64: expected torch.float64, float32, bfloat16 or float16"):
        assert_same_learning(nn.CrossEntropyLoss(), dtype=torch.int64)
