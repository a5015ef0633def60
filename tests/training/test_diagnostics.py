"""What is looked at in a step: its scalars, its loss held against the reference, and the first non-finite loss."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.recording import Recorder
from xent.recording.errors import Stopped
from xent.training.data import Split, batches
from xent.training.diagnostics import parity, scalars, stop_if_nonfinite
from xent.training.loop import Training, fit


def measured(loss: object, dtype: torch.dtype = torch.float32, reference: nn.Module | None = None) -> dict[str, float]:
    torch.manual_seed(0)
    logits = torch.randn(32, 10, dtype=dtype, requires_grad=True)
    target = torch.arange(32) % 10
    value = loss(logits, target)  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(value, logits)
    return parity(logits, target, value.detach(), gradient, reference or nn.CrossEntropyLoss())


def test_the_reference_is_as_far_off_as_itself() -> None:
    errors = measured(cross_entropy)
    assert errors["train_parity/loss_error"] == errors["train_parity/reference_loss_error"]
    assert errors["train_parity/gradient_error"] == errors["train_parity/reference_gradient_error"]
    assert 0 < errors["train_parity/gradient_error"] < 1e-6


def test_an_error_in_the_loss_or_the_gradient_is_told_apart() -> None:
    def scaled(logits: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(logits, target)
        return loss + 1e-3 * (loss - loss.detach())

    assert measured(lambda logits, target: cross_entropy(logits, target) + 1)["train_parity/gradient_error"] < 1e-6
    assert measured(lambda logits, target: 1.01 * cross_entropy(logits, target))[
        "train_parity/loss_error"
    ] == pytest.approx(0.01, rel=1e-3)
    assert measured(scaled)["train_parity/loss_error"] < 1e-6
    assert measured(scaled)["train_parity/gradient_error"] == pytest.approx(1e-3, rel=1e-3)


def test_the_reference_has_the_arguments_of_the_loss() -> None:
    weighted = nn.CrossEntropyLoss(torch.linspace(1, 2, 10), label_smoothing=0.1)
    assert measured(weighted, reference=weighted)["train_parity/loss_error"] < 1e-6
    assert measured(weighted)["train_parity/loss_error"] > 1e-3


def test_in_float64_and_half_types() -> None:
    assert measured(cross_entropy, torch.float64)["train_parity/gradient_error"] == 0
    assert 1e-4 < measured(cross_entropy, torch.bfloat16)["train_parity/gradient_error"] < 1e-2


def split() -> Split:
    images = torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(images, torch.arange(40) % 3, 3, torch.full((1, 1, 1), 127.5), torch.full((1, 1, 1), 63.75))


def training(steps: int, loss: object = None, accumulate: int = 1) -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = loss or nn.CrossEntropyLoss()
    recorder = Recorder(steps=steps)
    return Training(model, loss, optimizer, recorder, batch_size=8, seed=0, accumulate=accumulate)  # type: ignore


def logged(of: Training, reference: nn.Module | None) -> dict[str, float]:
    """The scalars of its last step."""
    (*_, step) = fit(of, split(), split(), log_every=100)
    return scalars(step, of.recorder.trace.losses[-1].item(), of.model, reference)


def test_the_scalars_of_a_step_are_what_its_batch_says() -> None:
    whole = training(1)
    images, target = next(batches(split(), 8, seed=0, steps=1))
    logits = whole.model(images)
    gradients = torch.autograd.grad(cross_entropy(logits, target), list(whole.model.parameters()))
    assert logged(whole, None) == {
        "train/loss": pytest.approx(cross_entropy(logits, target).item()),
        "train/accuracy": pytest.approx((logits.argmax(1) == target).double().mean().item()),
        "train/gradient_norm": pytest.approx(torch.cat([gradient.flatten() for gradient in gradients]).norm().item()),
        "train/learning_rate": pytest.approx(0.1),
    }


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_parity_is_that_of_the_last_microbatch(accumulate: int, reduction: str) -> None:
    """Of its own mean, whatever it counts in that of the batch; a wrong factor would be an error of its size."""
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), reduction=reduction)
    right = logged(training(3, loss, accumulate), loss)
    assert max(right[f"train_parity/{name}_error"] for name in ("loss", "gradient")) < 1e-6
    wrong = logged(training(3, lambda logits, target: 1.01 * cross_entropy(logits, target), accumulate),
                   nn.CrossEntropyLoss())  # fmt: skip
    assert wrong["train_parity/loss_error"] == pytest.approx(0.01, rel=1e-4)
    assert wrong["train_parity/gradient_error"] == pytest.approx(0.01, rel=1e-4)


class NanOnce(nn.Module):
    """A loss that is NaN at step 5, with the right gradient."""

    steps = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.steps += 1
        return cross_entropy(logits, target) + (torch.nan if self.steps == 5 else 0)


@pytest.mark.parametrize("seen_at", [5, 8])
def test_the_batch_of_the_first_loss_that_is_no_number_is_kept(seen_at: int, tmp_path: Path) -> None:
    of = training(12, NanOnce())
    steps = {step.number: step for step in fit(of, split(), split(), log_every=1)}
    at = steps[seen_at]
    stop_if_nonfinite(of, at, 5, split(), tmp_path)
    assert not list(tmp_path.iterdir()), "the losses of later steps are finite"
    says = (
        rf"the loss is nan at step 5, seen at step {seen_at}: learning rate \S+, largest logit \S+, largest gradient "
    )
    with pytest.raises(Stopped, match=says):
        stop_if_nonfinite(of, at, 0, split(), tmp_path)
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=True)
    assert set(saved) == {"images", "target", "loss", "step"} | ({"logits"} if seen_at == 5 else set())
    images, target = list(batches(split(), 8, seed=0, steps=5))[4]
    assert torch.equal(saved["images"], images) and torch.equal(saved["target"], target)
    assert saved["loss"].isnan() and saved["step"] == 5
    assert seen_at != 5 or torch.equal(saved["logits"], at.logits.detach()), "those of a later step belong to no image"


def test_a_finite_loss_stops_nothing(tmp_path: Path) -> None:
    of = training(3)
    for step in fit(of, split(), split(), log_every=1):
        stop_if_nonfinite(of, step, 0, split(), tmp_path)
    assert not list(tmp_path.iterdir())
