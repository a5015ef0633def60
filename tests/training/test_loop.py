from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.commands import small, trained
from tests.helpers.runs import scalars as scalars_of
from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.training.data import Split, batches
from xent.training.loop import Step, Training, evaluate, fit, predict
from xent.verdict.floor import bitwise_identical, output_gaps


def split(n: int = 40) -> Split:
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    mean, std = (torch.full((1, 1, 1), value) for value in (127.5, 63.75))
    return Split(images, torch.arange(n) % 3, 3, mean, std)


def training(steps: int, **changes: Any) -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    parts = {
        "model": model,
        "loss": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "recorder": Recorder(steps=steps),
    }
    return Training(**parts | {"batch_size": 8, "seed": 0} | changes)  # type: ignore[arg-type]


def steps_of(made: Training, log_every: int = 4, test_every: int | None = None) -> Iterator[Step]:
    return fit(made, split(), split(30), log_every, test_every)


def fitted(steps: int, test_every: int | None = None) -> Trace:
    made = training(steps)
    for _ in steps_of(made, test_every=test_every):
        pass
    return made.recorder.trace


def test_the_trace_holds_every_step_the_probe_steps_and_the_evaluations() -> None:
    trace = fitted(steps=13)
    assert trace.step == 13
    assert trace.losses.isfinite().all()
    assert list(trace.probes) == [0, 1, 2, 4, 8, 13]
    assert list(trace.tests) == [5, 10, 13], "after each epoch of five steps, and at the end"


def test_evaluations_are_as_seldom_as_one_asks_for_and_change_nothing() -> None:
    usual, seldom = fitted(steps=13), fitted(steps=13, test_every=6)
    assert list(seldom.tests) == [6, 12, 13]
    assert list(fitted(steps=13, test_every=100).tests) == [13]
    assert torch.equal(seldom.losses, usual.losses)
    assert seldom.tests[13] == usual.tests[13]


def test_every_step_is_told_of_when_all_of_it_is_recorded() -> None:
    made = training(13)
    logged = []
    for number, step in enumerate(steps_of(made, test_every=6), start=1):
        trace = made.recorder.trace
        assert (step.number, trace.step) == (number, number)
        assert trace.losses[number - 1] == step.loss and trace.losses[number:].isnan().all()
        assert (number in trace.tests) == (number in (6, 12, 13))
        logged += [number] * step.is_logged
    assert logged == [4, 8, 12, 13], "every four steps, and the last"


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


def test_of_several_microbatches_a_step_has_the_last_and_what_it_adds() -> None:
    for whole, last in zip(steps_of(training(4)), steps_of(training(4, accumulate=3))):
        assert torch.equal(last.target, whole.target[5:])
        assert whole.share is None and last.share == pytest.approx(3 / 8)
        assert last.loss == pytest.approx(cross_entropy(last.logits, last.target).item() * 3 / 8, rel=1e-6)
        if last.is_logged:
            torch.testing.assert_close(last.logits.grad, whole.logits.grad[5:])  # type: ignore[index]


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_accumulated_gradients_train_as_the_whole_batch(accumulate: int) -> None:
    whole, parts = training(13), training(13, accumulate=accumulate)
    for _ in zip(steps_of(whole), steps_of(parts), strict=True):
        pass
    torch.testing.assert_close(parts.recorder.trace.losses, whole.recorder.trace.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.model.state_dict(), whole.model.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_nudge_moves_the_logits_anew_at_every_step_where_the_loss_has_a_precision_of_its_own() -> None:
    given = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        given.append(logits.detach())
        return cross_entropy(logits, target)

    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    nn.init.zeros_(model[1].weight)  # every row has the same logits, and keeps them
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    data = split(8)
    data = Split(data.images, data.labels, 3, data.mean.double(), data.std.double())
    made = Training(model, loss, optimizer, Recorder(steps=4, nudge=1), 8, seed=0, loss_dtype=torch.float32)
    for _ in fit(made, data, data, log_every=2):
        pass
    assert {logits.dtype for logits in given} == {torch.float32}
    assert len({tuple(logits.flatten().tolist()) for logits in given}) == 4


def test_the_loop_is_plain_stochastic_gradient_descent() -> None:
    """The same training, written out, gives the same losses."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 3)
    expected = []
    for step, (images, target) in enumerate(batches(split(), batch_size=8, seed=0, steps=6)):
        loss = cross_entropy(layer(images.flatten(1)), target)
        expected.append(loss.item())
        gradients = torch.autograd.grad(loss, list(layer.parameters()))
        rate = 0.1 * min(1, (step + 1) / 1.2, (6 - step) / 4.8)
        with torch.no_grad():
            for parameter, gradient in zip(layer.parameters(), gradients):
                parameter.sub_(rate * gradient)
    assert fitted(6).losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_evaluation_leaves_the_mode_and_the_statistics_of_the_model_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    evaluate(model, split())
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_evaluation_is_the_reference_loss_over_all_images() -> None:
    data = split(2050)  # more than two chunks, and a rest
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    logits = model(data.normalised(data.images))
    loss, accuracy = evaluate(model, data)
    assert loss == pytest.approx(cross_entropy(logits, data.labels).item(), rel=1e-6)
    assert accuracy == (logits.argmax(1) == data.labels).double().mean().item()
    assert predict(model, data, 7).shape == (7, 3)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
def test_training_twice_gives_the_same_bits(model: str, tmp_path: Path) -> None:
    overrides = [f"model={model}", "max_steps=12", "log_every=5"]
    first, second = (trained(tmp_path / name, *overrides) for name in ("a", "b"))
    assert bitwise_identical(first, second)
    assert first.tests == second.tests


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    first, second = (trained(tmp_path / str(seed), *small(seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.probes[0], second.probes[0])


def test_in_float64_scratch_and_reference_agree_to_1e13_through_200_steps(tmp_path: Path) -> None:
    overrides = ["model=mlp", "max_steps=200", "precision=float64"]
    reference, candidate = (trained(tmp_path / loss, f"loss={loss}", *overrides) for loss in ("torch", "scratch"))
    assert candidate.probes[200].dtype == torch.float64
    assert max(output_gaps(candidate, reference).values()) < 1e-13
    assert not bitwise_identical(candidate, reference), "ours rounds differently somewhere: they are two computations"


def test_in_float32_scratch_and_reference_agree_to_1e5_after_a_step(tmp_path: Path) -> None:
    reference, candidate = (trained(tmp_path / loss, *small(loss=loss, max_steps=1)) for loss in ("torch", "scratch"))
    gap = output_gaps(candidate, reference)
    assert gap[0] == 0
    assert 0 <= gap[1] < 1e-5


def test_every_precision_starts_from_the_same_weights(tmp_path: Path) -> None:
    starts = [trained(tmp_path / p, *small(precision=p, max_steps=1)).probes[0] for p in ("float32", "float64")]
    torch.testing.assert_close(*(start.double() for start in starts), rtol=1e-5, atol=1e-6)


def test_bfloat16_trains_under_autocast(tmp_path: Path) -> None:
    trace = trained(tmp_path / "run", *small(precision="bfloat16"))
    exact = trained(tmp_path / "exact", *small())
    assert trace.losses.isfinite().all()
    assert not torch.equal(trace.losses, exact.losses)
    torch.testing.assert_close(trace.losses, exact.losses, rtol=0.05, atol=0.05)


def test_a_nudge_moves_the_start_by_rounding_and_is_a_setting(tmp_path: Path) -> None:
    plain, moved = (trained(tmp_path / str(n), *small(nudge=n, max_steps=1)) for n in (0, 1))
    assert 0 < output_gaps(moved, plain)[0] < 1e-6
    assert moved.settings["nudge"] == 1
    assert {"machine.processor", "machine.threads", "machine.torch"} < set(moved.settings)


def test_a_loss_gets_the_type_of_logits_that_the_run_makes(tmp_path: Path) -> None:
    custom = {"loss": "custom", "loss._target_": "tests.helpers.faulty_losses.Bfloat16Only"}
    assert trained(tmp_path / "run", *small(precision="bfloat16", **custom)).losses.isfinite().all()
    with pytest.raises(BadInput, match="the loss of float32 logits .* cannot be computed .AssertionError"):
        trained(tmp_path / "other", *small(**custom))


def test_a_loss_that_writes_over_its_logits_is_logged_rightly(tmp_path: Path) -> None:
    custom = ["loss=custom", "loss._target_=tests.helpers.right_losses.Overwriting"]
    trained(tmp_path / "run", *small(log_every=1), *custom)
    trained(tmp_path / "torch", *small(log_every=1))
    found, expected = (
        {
            tag: [np.frombuffer(value, np.float32)[0] for _, value in values]
            for tag, values in scalars_of(tmp_path / name).items()
        }
        for name in ("run", "torch")
    )
    assert found["train/accuracy"][:4] == pytest.approx(expected["train/accuracy"][:4], abs=1 / 64)
    assert max(found["train_parity/loss_error"]) < 1e-6
    assert max(found["train_parity/gradient_error"]) < 1e-5
