"""`record`: a loop of one's own leaves the trace that a Recorder called by hand would leave, however it is written."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.recording import BadInput, Recorder, record
from xent.recording.loop import LoopRecord
from xent.recording.trace import Trace, load
from xent.testing import assert_same_training
from xent.verdict.floor import bitwise_identical

STEPS, SAMPLES = 11, 6


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, SAMPLES, 4, generator=generator, dtype=torch.float64)
    return [(x, (x.sum(1) > 0).long()) for x in inputs]


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


FIXED = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
Loop = Callable[[LoopRecord, nn.Module, torch.optim.Optimizer], None]


def before(
    run: LoopRecord,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    after_step: Callable[[Tensor], None] = lambda x: None,
) -> None:
    for x, y in run.batches(batches()):
        loss = cross_entropy(model(x), y)
        run.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step(x)


def after(run: LoopRecord, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """With an evaluation in each step, and the loss as a number."""
    for x, y in run.batches(batches()):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model(FIXED)
        run.loss(loss.item())


def by_closure(run: LoopRecord, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, y in run.batches(batches()):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            run.loss(loss)
            loss.backward()
            return loss

        optimizer.step(closure)


def recorded(loop: Loop, **arguments: Any) -> Trace:
    model, optimizer = parts()
    with record(model, optimizer, probe=lambda: model(FIXED), **arguments) as run:
        loop(run, model, optimizer)
    return run.recorder.trace


def by_hand(nudge: int = 0, accumulate: int = 1) -> Trace:
    """What the recorder leaves, called line by line."""
    model, optimizer = parts()
    recorder = Recorder(steps=STEPS, nudge=nudge)
    recorder.nudge(model)
    for x, y in batches():
        losses = []
        for part in zip(x.chunk(accumulate), y.chunk(accumulate)):
            images, target = recorder.reorder(*part)
            losses.append(cross_entropy(model(images), target))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        recorder.step(torch.stack(losses).mean(), lambda: model(FIXED))
    recorder.finish()
    return recorder.trace


@pytest.mark.parametrize("loop", [before, after, by_closure])
@pytest.mark.parametrize("nudge", [0, 1])
def test_the_trace_is_that_of_a_recorder_called_by_hand_wherever_the_loss_is_handed_over(
    loop: Loop, nudge: int
) -> None:
    expected, trace = by_hand(nudge), recorded(loop, steps=STEPS, nudge=nudge)
    assert bitwise_identical(trace, expected)
    assert [*trace.probes] == [*expected.probes] == [1, 2, 4, 8, 11]
    assert (trace.fingerprints, trace.settings) == (expected.fingerprints, expected.settings)


@pytest.mark.parametrize("loss_first", [True, False])
def test_losses_of_microbatches_are_averaged(loss_first: bool) -> None:
    def accumulating(run: LoopRecord, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        halves = [half for x, y in batches() for half in zip(x.chunk(2), y.chunk(2))]
        for number, (x, y) in enumerate(run.batches(halves), start=1):
            loss = cross_entropy(model(x), y)
            if loss_first:
                run.loss(loss)
            (loss / 2).backward()
            if number % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
            if not loss_first:
                run.loss(loss)

    trace, expected = recorded(accumulating), by_hand(accumulate=2)
    assert trace.step == STEPS
    torch.testing.assert_close(trace.losses, expected.losses, rtol=1e-12, atol=0)


def test_a_loop_without_batches_of_ours_is_recorded_too_and_one_that_stops_early_is_finished(tmp_path: Path) -> None:
    def plain(run: LoopRecord, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for x, y in batches()[:7]:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.loss(loss)

    recorded(plain, folder=tmp_path)
    trace, expected = load(tmp_path), by_hand()
    assert trace.losses.tolist() == expected.losses[:7].tolist()
    assert [*trace.probes] == [1, 2, 4, 7] and torch.equal(trace.probes[4], expected.probes[4])


class WithLoss(nn.Module):
    """As nanoGPT's, which returns its loss beside the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.network(x)
        return logits, None if target is None else cross_entropy(logits, target)


@pytest.mark.parametrize("nudge", [0, 1])
def test_one_line_records_a_model_that_returns_its_loss(nudge: int, tmp_path: Path) -> None:
    network, optimizer = parts()
    model, left = WithLoss(network), batches()
    model.eval()
    probe = lambda: model(FIXED)[0]  # noqa: E731
    record(model, optimizer, loss=lambda output: output[1], probe=probe, nudge=nudge, steps=STEPS, folder=tmp_path)
    for number in range(2 * STEPS):  # more than are recorded
        model.train()
        x, y = left[number % STEPS]
        _, loss = model(x, y) if number % 2 else model(x, target=y)
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
        model(FIXED)
    assert bitwise_identical(load(tmp_path), by_hand(nudge))
    assert not model._forward_hooks and not optimizer._optimizer_step_post_hooks


def test_a_copy_of_the_model_and_a_saved_one_record_nothing() -> None:
    model, optimizer = parts()

    def call_copies(x: Tensor) -> None:
        for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copy(x), model(x)), "which is a forward pass of a training step for neither"

    with record(model, optimizer, steps=STEPS, probe=lambda: model(FIXED)) as run:
        before(run, model, optimizer, call_copies)
    assert bitwise_identical(run.recorder.trace, by_hand())


def test_a_step_without_a_loss_is_refused_and_a_training_that_fails_leaves_no_trace_and_no_hook(tmp_path: Path) -> None:
    def silent(run: LoopRecord, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in batches():
            model(FIXED).sum().backward()
            optimizer.step()

    with pytest.raises(BadInput, match="^no loss of step 1: call run.loss.loss. before or after"):
        recorded(silent, folder=tmp_path)
    model, optimizer = parts()
    with pytest.raises(ZeroDivisionError), record(model, optimizer, probe=lambda: model(FIXED), folder=tmp_path) as run:
        run.loss(1 / 0)
    assert not [*tmp_path.iterdir()]
    assert not model._forward_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_a_recorded_loop_is_proved_in_a_test() -> None:
    def train(recorder: Recorder, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy) -> None:
        model, optimizer = parts()
        with record(model, optimizer, probe=lambda: model(FIXED), run=recorder) as run:
            for x, y in run.batches(batches(recorder.steps)):
                value = loss(model(x), y)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                run.loss(value)

    assert_same_training(lambda run: train(run, lambda z, t: cross_entropy(z.float(), t)), train, steps=40)
    with pytest.raises(AssertionError, match="training is different(.*\n)*.*where +step 1, loss"):
        assert_same_training(lambda run: train(run, lambda z, t: 1.001 * cross_entropy(z, t)), train, steps=40)
