"""What is looked at in a step: its scalars, its loss held against the reference, and the first non-finite loss."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.training.linear import split, steps_of, training
from xent.recording.errors import Stopped
from xent.training.data import batches
from xent.training.diagnostics import parity, scalars, stop_if_nonfinite
from xent.training.loop import Training

Loss = Callable[[Tensor, Tensor], Tensor]


def one_percent_more(logits: Tensor, target: Tensor) -> Tensor:
    return 1.01 * cross_entropy(logits, target)


def errors(loss: Loss, dtype: torch.dtype = torch.float32) -> list[float]:
    """Errors of the loss and of its gradient, then the reference's."""
    torch.manual_seed(0)
    logits, target = torch.randn(32, 10, dtype=dtype, requires_grad=True), torch.arange(32) % 10
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    of = parity(logits, target, value.detach(), gradient, nn.CrossEntropyLoss())
    names = ("loss", "gradient", "reference_loss", "reference_gradient")
    return [of[f"train_parity/{name}_error"] for name in names]


def test_the_reference_is_as_far_off_as_itself_and_that_is_rounding() -> None:
    for dtype, least, most in ((torch.float32, 1e-9, 1e-6), (torch.bfloat16, 1e-4, 1e-2)):
        loss, gradient, *of_reference = errors(cross_entropy, dtype)
        assert of_reference == [loss, gradient]
        assert least < gradient < most
    assert errors(cross_entropy, torch.float64) == [0, 0, 0, 0]


def test_an_error_in_the_loss_or_the_gradient_is_told_apart() -> None:
    def of_wrong_gradient(logits: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(logits, target)
        return loss + 1e-3 * (loss - loss.detach())

    loss, gradient, *of_reference = errors(lambda *batch: cross_entropy(*batch) + 0.1)
    assert loss > 0.01 and max(gradient, *of_reference) < 1e-6
    loss, gradient, *of_reference = errors(of_wrong_gradient)
    assert gradient == pytest.approx(1e-3, rel=1e-3) and max(loss, *of_reference) < 1e-6
    assert errors(one_percent_more)[:2] == pytest.approx([0.01, 0.01], rel=1e-3)


def logged(run: Training, reference: nn.Module | None) -> dict[str, float]:
    """The scalars of its last step."""
    *_, step = steps_of(run)
    return scalars(step, run.recorder.trace.losses[-1].item(), run.model, reference)


def test_the_scalars_of_a_step_are_what_its_batch_says() -> None:
    run = training(1)
    images, target = next(batches(split(), 8, seed=0, steps=1))
    logits = run.model(images)
    gradients = torch.autograd.grad(cross_entropy(logits, target), list(run.model.parameters()))
    assert logged(run, None) == {
        "train/loss": pytest.approx(cross_entropy(logits, target).item()),
        "train/accuracy": pytest.approx((logits.argmax(1) == target).double().mean().item()),
        "train/gradient_norm": pytest.approx(torch.cat([gradient.flatten() for gradient in gradients]).norm().item()),
        "train/learning_rate": pytest.approx(0.1),
    }


@pytest.mark.parametrize(("accumulate", "reduction"), [(1, "mean"), (3, "mean"), (3, "sum")])
def test_parity_is_that_of_the_last_microbatch(accumulate: int, reduction: str) -> None:
    """Of its own mean, whatever it counts in that of the batch; a wrong factor would be an error of its size."""
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), reduction=reduction)
    right = logged(training(3, loss=loss, accumulate=accumulate), loss)
    wrong = logged(training(3, loss=one_percent_more, accumulate=accumulate), nn.CrossEntropyLoss())
    for tag in ("train_parity/loss_error", "train_parity/gradient_error"):
        assert right[tag] < 1e-6 and wrong[tag] == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("seen_at", [5, 8])
def test_the_batch_of_the_first_loss_that_is_no_number_is_kept(seen_at: int, tmp_path: Path) -> None:
    terms = iter(4 * [0.0] + [torch.nan] + 7 * [0.0])
    run = training(12, loss=lambda *batch: cross_entropy(*batch) + next(terms))
    for step in steps_of(run, log_every=1):
        if step.number < 5:
            stop_if_nonfinite(run, step, 0, split(), tmp_path)
        if step.number == seen_at:
            break
    stop_if_nonfinite(run, step, 5, split(), tmp_path)
    assert not list(tmp_path.iterdir()), "the losses before and after are finite"
    says = f"the loss is nan at step 5, seen at step {seen_at}: learning rate .+, largest logit .+, largest gradient "
    with pytest.raises(Stopped, match=says):
        stop_if_nonfinite(run, step, 2, split(), tmp_path)
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=True)
    *_, (images, target) = batches(split(), 8, seed=0, steps=5)
    assert torch.equal(saved.pop("images"), images) and torch.equal(saved.pop("target"), target)
    assert saved.pop("loss").isnan() and saved.pop("step") == 5
    assert seen_at != 5 or torch.equal(saved.pop("logits"), step.logits.detach())
    assert not saved, "the logits of a later step belong to no image"
