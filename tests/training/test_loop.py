"""The loop: what it trains and records, and what is looked at in a step; on images of noise."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.commands import small, trained
from tests.helpers.faulty_losses import Float32
from xent.recording import Recorder
from xent.recording.errors import Stopped
from xent.training.data import Split, batches
from xent.training.diagnostics import parity, scalars, stop_if_nonfinite
from xent.training.loop import Step, Training, evaluate, fit, predict


def split(n: int = 40) -> Split:
    images = torch.randint(256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
    return Split(images, torch.arange(n) % 3, 3, torch.full((1, 1, 1), 127.5), torch.full((1, 1, 1), 63.75))


def training(steps: int, nudge: int = 0, **changes: Any) -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"loss": nn.CrossEntropyLoss(), "recorder": Recorder(steps=steps, nudge=nudge)} | changes
    return Training(model, optimizer=optimizer, batch_size=8, seed=0, **parts)  # type: ignore[arg-type]


def steps_of(training: Training, log_every: int = 4, test_every: int | None = None) -> Iterator[Step]:
    return fit(training, split(), split(30), log_every, test_every)


def test_every_step_is_told_of_when_all_of_it_is_recorded_and_evaluations_change_nothing() -> None:
    run = training(13)
    trace, logged = run.recorder.trace, []
    for number, step in enumerate(steps_of(run, test_every=6), start=1):
        assert (step.number, trace.step) == (number, number)
        assert trace.losses[number - 1] == step.loss and trace.losses[number:].isnan().all()
        assert list(trace.tests) == [test for test in (6, 12, 13) if test <= number]
        logged += [number] * step.is_logged
    assert logged == [4, 8, 12, 13], "every four steps, and the last"
    assert list(trace.probes) == [0, 1, 2, 4, 8, 13] and len(trace.losses) == 13
    list(steps_of(run := training(13)))
    usual = run.recorder.trace
    assert list(usual.tests) == [5, 10, 13], "after each epoch of five steps, and at the end"
    assert trace.tests[13] == usual.tests[13] and torch.equal(trace.losses, usual.losses)


def test_a_logged_step_has_what_the_loss_was_given_before_it_wrote_over_it() -> None:
    def overwriting(logits: Tensor, target: Tensor) -> Tensor:
        inputs = logits.clone(), target.clone()
        with torch.no_grad():
            logits.zero_()
            target.zero_()
        return cross_entropy(*inputs)

    for step, expected in zip(steps_of(training(8, loss=overwriting)), steps_of(training(8))):
        assert step.loss == expected.loss
        if step.is_logged:
            assert torch.equal(step.logits, expected.logits) and torch.equal(step.target, expected.target)
            assert torch.equal(step.logits.grad, expected.logits.grad)  # type: ignore[arg-type]


def test_microbatches_train_as_their_batch_and_a_step_has_the_last_and_what_it_adds() -> None:
    batch, parts = training(13), training(13, accumulate=3)
    for whole, last in zip(steps_of(batch), steps_of(parts), strict=True):
        assert torch.equal(last.target, whole.target[5:])
        assert whole.share is None and last.share == pytest.approx(3 / 8)
        assert last.loss == pytest.approx(cross_entropy(last.logits, last.target).item() * 3 / 8, rel=1e-6)
        if last.is_logged:
            torch.testing.assert_close(last.logits.grad, whole.logits.grad[5:])  # type: ignore[index]
    torch.testing.assert_close(parts.recorder.trace.losses, batch.recorder.trace.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.model.state_dict(), batch.model.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_nudge_reorders_every_batch_and_moves_the_logits_of_a_loss_that_has_a_precision_of_its_own() -> None:
    for step, nudged in zip(steps_of(training(4)), steps_of(training(4, nudge=1))):
        assert sorted(nudged.target.tolist()) == sorted(step.target.tolist())
        assert not torch.equal(nudged.target, step.target)
    inputs = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        inputs.append(logits.detach())
        return 0 * cross_entropy(logits, target)  # so that no weight moves

    run = training(4, nudge=1, loss=loss, loss_dtype=torch.bfloat16)
    nn.init.zeros_(run.model[1].weight)  # type: ignore  # so that every row has the same logits
    list(steps_of(run))
    assert {logits.dtype for logits in inputs} == {torch.bfloat16}
    assert len({tuple(logits.flatten().tolist()) for logits in inputs}) == 4, "anew at every step"


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 11])
def test_the_loop_is_plain_stochastic_gradient_descent(steps: int) -> None:
    """The same training, written out: the learning rate rises for a fifth of the steps, then falls to zero."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 3)
    expected = []
    for step, (images, target) in enumerate(batches(split(), batch_size=8, seed=0, steps=steps)):
        loss = cross_entropy(layer(images.flatten(1)), target)
        expected.append(loss.item())
        gradients = torch.autograd.grad(loss, list(layer.parameters()))
        rate = 0.1 * min(1, (step + 1) / (0.2 * steps), (steps - step) / (0.8 * steps))
        with torch.no_grad():
            for parameter, gradient in zip(layer.parameters(), gradients):
                parameter.sub_(rate * gradient)
    list(steps_of(run := training(steps)))
    assert run.recorder.trace.losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_evaluation_is_the_reference_loss_over_all_images_and_leaves_the_model_as_it_is() -> None:
    data = split(2050)  # more than two chunks, and a rest
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    before = deepcopy(model.state_dict())
    loss, accuracy = evaluate(model, data)
    assert model.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    logits = predict(model, data, 2050)
    torch.testing.assert_close(logits, model.eval()(data.normalised(data.images)))
    assert loss == cross_entropy(logits.double(), data.labels).item()
    assert accuracy == (logits.argmax(1) == data.labels).double().mean().item()
    assert predict(model, data, 7).shape == (7, 3)


def test_a_seed_draws_other_weights_and_nudge_and_precision_move_them_by_rounding(tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [{}, {"seed": 1}, {"nudge": 1}, {"precision": "float64"}]
    outputs = [trained(tmp_path / str(change), *small(max_steps=1, **change)).probes[0] for change in changes]
    assert [first.dtype for first in outputs] == [*[torch.float32] * 3, torch.float64]
    plain, seeded, nudged, double = (first.double() for first in outputs)
    assert (seeded - plain).abs().max() > 0.1
    assert 0 < (nudged - plain).abs().max() < 1e-5
    assert 0 < (double - plain).abs().max() < 1e-5


def test_bfloat16_trains_under_autocast(tmp_path: Path) -> None:
    exact = trained(tmp_path / "exact", *small())
    loss = {"loss": "custom", "loss._target_": "tests.helpers.faulty_losses.Bfloat16Only"}
    trace = trained(tmp_path / "bfloat16", *small(precision="bfloat16", **loss))
    assert not torch.equal(trace.losses, exact.losses)
    torch.testing.assert_close(trace.losses, exact.losses, rtol=0.05, atol=0.05)


def errors(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype = torch.float32) -> list[float]:
    """Errors of the loss and of its gradient, then the reference's."""
    torch.manual_seed(0)
    logits, target = torch.randn(32, 10, dtype=dtype, requires_grad=True), torch.arange(32) % 10
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    of = parity(logits, target, value.detach(), gradient, nn.CrossEntropyLoss())
    return [of[f"train_parity/{name}_error"] for name in ("loss", "gradient", "reference_loss", "reference_gradient")]


def test_errors_of_loss_and_gradient_are_told_apart_and_those_of_the_reference_are_rounding() -> None:
    for dtype, least, most in ((torch.float32, 1e-9, 1e-6), (torch.bfloat16, 1e-4, 1e-2)):
        loss, gradient, *of_reference = errors(cross_entropy, dtype)
        assert of_reference == [loss, gradient] and least < gradient < most
    assert errors(cross_entropy, torch.float64) == [0, 0, 0, 0]
    loss, gradient, *of_reference = errors(lambda *batch: cross_entropy(*batch) + 0.1)
    assert loss > 0.01 and max(gradient, *of_reference) < 1e-6
    loss, gradient, *of_reference = errors(Float32(error=1e-3))  # of the gradient
    assert gradient == pytest.approx(1e-3, rel=1e-3) and max(loss, *of_reference) < 1e-6


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
    one_percent_more = training(3, loss=lambda *batch: 1.01 * cross_entropy(*batch), accumulate=accumulate)
    wrong = logged(one_percent_more, nn.CrossEntropyLoss())
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
    seen = f", seen at step {seen_at}" if seen_at > 5 else ""
    with pytest.raises(
        Stopped, match=f"^the loss is nan at step 5{seen}: learning rate .+, largest logit .+, largest gr"
    ):
        stop_if_nonfinite(run, step, 2, split(), tmp_path)
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=True)
    *_, (images, target) = batches(split(), 8, seed=0, steps=5)
    assert torch.equal(saved.pop("images"), images) and torch.equal(saved.pop("target"), target)
    assert saved.pop("loss").isnan() and saved.pop("step") == 5
    assert seen_at != 5 or torch.equal(saved.pop("logits"), step.logits.detach())
    assert not saved, "the logits of a later step belong to no image"
