from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.commands import small, trained
from tests.training.linear import split, steps_of, training
from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.training.data import batches
from xent.training.loop import evaluate, predict
from xent.verdict.floor import bitwise_identical, output_gaps


def fitted(steps: int, test_every: int | None = None) -> Trace:
    run = training(steps)
    list(steps_of(run, test_every=test_every))
    return run.recorder.trace


def test_every_step_is_told_of_when_all_of_it_is_recorded() -> None:
    run = training(13)
    trace, logged = run.recorder.trace, []
    for number, step in enumerate(steps_of(run, test_every=6), start=1):
        assert (step.number, trace.step) == (number, number)
        assert trace.losses[number - 1] == step.loss and trace.losses[number:].isnan().all()
        assert list(trace.tests) == [test for test in (6, 12, 13) if test <= number]
        logged += [number] * step.is_logged
    assert logged == [4, 8, 12, 13], "every four steps, and the last"
    assert list(trace.probes) == [0, 1, 2, 4, 8, 13]
    assert len(trace.losses) == 13 and trace.losses.isfinite().all()


def test_evaluations_are_as_seldom_as_one_asks_for_and_change_nothing() -> None:
    usual, seldom, last = (fitted(13, test_every) for test_every in (None, 6, 100))
    assert list(usual.tests) == [5, 10, 13], "after each epoch of five steps, and at the end"
    assert (list(seldom.tests), list(last.tests)) == ([6, 12, 13], [13])
    assert torch.equal(seldom.losses, usual.losses)
    assert seldom.tests[13] == usual.tests[13]


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
    list(zip(steps_of(whole), steps_of(parts), strict=True))
    torch.testing.assert_close(parts.recorder.trace.losses, whole.recorder.trace.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.model.state_dict(), whole.model.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_nudge_puts_every_batch_in_another_order() -> None:
    for step, nudged in zip(steps_of(training(4)), steps_of(training(4, nudge=1))):
        assert not torch.equal(nudged.target, step.target)
        assert torch.equal(nudged.target.sort().values, step.target.sort().values)


def test_a_nudge_moves_the_logits_anew_at_every_step_where_the_loss_has_a_precision_of_its_own() -> None:
    inputs = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        inputs.append(logits.detach())
        return 0 * cross_entropy(logits, target)  # so that no weight moves

    run = training(4, nudge=1, loss=loss, loss_dtype=torch.bfloat16)
    nn.init.zeros_(run.model[1].weight)  # type: ignore  # so that every row has the same logits
    list(steps_of(run))
    assert {logits.dtype for logits in inputs} == {torch.bfloat16}
    assert len({tuple(logits.flatten().tolist()) for logits in inputs}) == 4


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
    assert fitted(steps).losses.tolist() == pytest.approx(expected, rel=1e-6)


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


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
def test_training_twice_gives_the_same_bits(model: str, tmp_path: Path) -> None:
    first, second = (trained(tmp_path / name, *small(model=model, **{"model.width": 4})) for name in ("a", "b"))
    assert bitwise_identical(first, second)
    assert first.tests == second.tests


@pytest.mark.parametrize(("precision", "steps", "bound"), [("float64", 200, 1e-13), ("float32", 1, 1e-5)])
def test_scratch_and_reference_agree_through_so_many_steps(
    precision: str, steps: int, bound: float, tmp_path: Path
) -> None:
    overrides = ["model=mlp", f"precision={precision}", f"max_steps={steps}"]
    reference, candidate = (trained(tmp_path / loss, f"loss={loss}", *overrides) for loss in ("torch", "scratch"))
    gaps = output_gaps(candidate, reference)
    assert gaps[0] == 0 and steps in gaps and max(gaps.values()) < bound
    assert candidate.probes[0].dtype == getattr(torch, precision)
    assert steps == 1 or not bitwise_identical(candidate, reference), "they are two computations"


def test_a_seed_draws_other_weights_and_nudge_and_precision_move_them_by_rounding(tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [{}, {"seed": 1}, {"nudge": 1}, {"precision": "float64"}]
    runs = [trained(tmp_path / str(change), *small(max_steps=1, **change)) for change in changes]
    plain, seeded, nudged, double = (run.probes[0].double() for run in runs)
    assert (seeded - plain).abs().max() > 0.1
    assert 0 < (nudged - plain).abs().max() < 1e-5
    assert 0 < (double - plain).abs().max() < 1e-5


def test_bfloat16_trains_under_autocast(tmp_path: Path) -> None:
    exact = trained(tmp_path / "exact", *small())
    loss = {"loss": "custom", "loss._target_": "tests.helpers.faulty_losses.Bfloat16Only"}
    trace = trained(tmp_path / "bfloat16", *small(precision="bfloat16", **loss))
    assert not torch.equal(trace.losses, exact.losses)
    torch.testing.assert_close(trace.losses, exact.losses, rtol=0.05, atol=0.05)
    with pytest.raises(BadInput, match="the loss of float32 logits .* cannot be computed .AssertionError"):
        trained(tmp_path / "float32", *small(**loss))
