import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from xent.recording import Recorder, trace_file
from xent.recording.errors import BadInput
from xent.recording.fingerprint import may_be_equal
from xent.recording.trace import Trace

FIXED = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x, y = (torch.randn(6, size, generator=generator, dtype=torch.float64) for size in (4, 2))
    return x, y


def training(recorder: Recorder, stop: int | None = None, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """A person's own loop, up to a step and from a state that it left."""
    torch.manual_seed(recorder.seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).double()
    recorder.nudge(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    parts = {"model": model, "optimizer": optimizer, "recorder": recorder}
    for name, part in parts.items() if state else ():
        part.load_state_dict(state[name])
    for step in range(recorder.trace.step + 1, (stop or recorder.steps) + 1):
        x, y = recorder.reorder(*batch(step))
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, probe=lambda: model(FIXED))
    return {name: part.state_dict() for name, part in parts.items()}


def recorded(**arguments: Any) -> Trace:
    recorder = Recorder(**{"steps": 11, **arguments})
    training(recorder)
    recorder.finish()
    return recorder.trace


def test_a_loop_of_ones_own_leaves_a_trace(tmp_path: Path) -> None:
    settings = {"kernel": "mine", "seed": 3}
    trace = recorded(folder=tmp_path / "runs" / "mine", settings=settings, nudge=2)
    loaded = trace_file.load(tmp_path / "runs" / "mine")
    assert {
        "kernel": "mine",
        "seed": 3,
        "nudge": 2,
        "precision": "float64",
        "device": "cpu",
    }.items() <= loaded.settings.items()
    assert {"machine.processor", "machine.threads", "machine.torch"} < set(loaded.settings)
    assert list(loaded.probes) == [1, 2, 4, 8, 11]
    assert torch.equal(loaded.losses, trace.losses) and loaded.losses.isfinite().all()
    assert all(torch.equal(outputs, trace.probes[step]) for step, outputs in loaded.probes.items())


def test_a_nudge_of_0_changes_nothing_and_others_change_rounding() -> None:
    plain, nudged = recorded(), recorded(nudge=1)
    torch.manual_seed(0)
    model = nn.Linear(4, 8)
    before = model.weight.detach().clone()
    Recorder(steps=1).nudge(model)
    assert torch.equal(model.weight, before)
    assert 0 < (nudged.probes[1] - plain.probes[1]).abs().max() < 1e-9
    x, y = batch(1)
    assert all(a is b for a, b in zip(Recorder(steps=1).reorder(x, y), (x, y)))


def test_samples_are_reordered_together_along_the_dimension_that_is_named() -> None:
    recorder = Recorder(steps=1, nudge=1)
    x, y = torch.arange(6), torch.arange(12).view(6, 2)
    moved, also = recorder.reorder(x, y)
    assert sorted(moved.tolist()) == x.tolist() != moved.tolist()
    assert torch.equal(also, y[moved])
    assert torch.equal(recorder.reorder(y.T, dim=1), also.T)


def test_a_batch_may_be_of_lists_tuples_and_dicts() -> None:
    recorder, x = Recorder(steps=1, nudge=1), torch.arange(6)
    found = recorder.reorder({"x": x, "more": [x, (x, x)]})
    expected = recorder.reorder(x)
    assert list(found) == ["x", "more"] and isinstance(found["more"][1], tuple)
    assert all(torch.equal(each, expected) for each in (found["x"], found["more"][0], *found["more"][1]))
    assert len(recorder.reorder([x])) == 1


def test_parts_of_a_batch_have_the_fingerprint_of_the_whole() -> None:
    whole, parts = Recorder(steps=1), Recorder(steps=1)
    x, y = batch(1)
    whole.reorder(x, y)
    for part in zip(x.chunk(3), y.chunk(3)):
        parts.reorder(*part)
    assert parts.trace.fingerprints["batch 1"] == pytest.approx(whole.trace.fingerprints["batch 1"], rel=1e-12)


def test_the_probe_is_taken_in_evaluation_mode_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), nn.Dropout(0.5))
    recorder = Recorder(steps=1)
    recorder.nudge(model)

    def probe() -> Tensor:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        return model[0].weight

    recorder.step(1.0, probe)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with torch.no_grad():
        model[0].weight.zero_()
    assert recorder.trace.probes[1].any(), "a copy of what the probe made"


def test_the_probe_is_called_at_probe_steps_only() -> None:
    called: list[int] = []
    recorder = Recorder(steps=11)

    def probe() -> Tensor:
        called.append(recorder.trace.step)
        return torch.zeros(1)

    recorder.begin(probe)
    for _ in range(11):
        recorder.step(1.0, probe)
    assert called == [0, 1, 2, 4, 8, 11]


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    torch.save(training(Recorder(steps=11, nudge=1), stop), tmp_path / "state.pt")
    recorder = Recorder(steps=11, nudge=1)
    training(recorder, state=torch.load(tmp_path / "state.pt", weights_only=True))
    recorder.finish()
    whole = recorded(nudge=1)
    assert torch.equal(recorder.trace.losses, whole.losses)
    assert list(recorder.trace.probes) == list(whole.probes)
    assert all(torch.equal(recorder.trace.probes[step], whole.probes[step]) for step in whole.probes)
    assert recorder.trace.fingerprints == whole.fingerprints


def test_what_a_run_was_given_is_recorded_whatever_its_order_and_nudge() -> None:
    plain, nudged, other = recorded(), recorded(nudge=1), recorded(settings={"seed": 1})
    assert list(plain.fingerprints) == ["first weights", *(f"batch {step}" for step in (1, 2, 4, 8, 11))]
    assert all(may_be_equal(nudged.fingerprints[name], fingerprint) for name, fingerprint in plain.fingerprints.items())
    assert not may_be_equal(plain.fingerprints["first weights"], other.fingerprints["first weights"])
    assert not may_be_equal(plain.fingerprints["batch 1"], plain.fingerprints["batch 2"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_outputs_keep_shape_and_type(dtype: torch.dtype, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, steps=1)
    recorder.step(torch.tensor([[2.5]]), lambda: torch.tensor(1 / 3, dtype=dtype))
    recorder.finish()
    (outputs,) = trace_file.load(tmp_path).probes.values()
    assert torch.equal(outputs, torch.tensor(1 / 3, dtype=dtype)) and outputs.dtype == dtype


def zeros() -> Tensor:
    return torch.zeros(2)


def step_twice(recorder: Recorder) -> None:
    recorder.step(1.0, zeros)
    recorder.step(1.0, zeros)


def change_shape(recorder: Recorder) -> None:
    recorder.begin(lambda: torch.zeros(3))
    recorder.step(1.0, zeros)


def nudge_late(recorder: Recorder) -> None:
    recorder.step(1.0, zeros)
    recorder.nudge(nn.Linear(1, 1))


def go_on_otherwise(recorder: Recorder) -> None:
    recorder.load_state_dict(Recorder(steps=2, settings={"kernel": "b"}).state_dict())


MISUSES: dict[str, Callable[[Recorder], None]] = {
    r"step.. was called more than steps=1 times: give the number of steps you make": step_twice,
    r"finish.. after 0 of 1 steps: make them all, or give fewer": lambda recorder: recorder.finish(),
    r"step.. got a loss of shape .3.: expected a scalar": lambda recorder: recorder.step(torch.ones(3), zeros),
    "the probe made torch.int64: expected a tensor of floating point": lambda r: r.step(1.0, lambda: torch.tensor(1)),
    "the probe made tuple: expected a tensor": lambda recorder: recorder.step(1.0, lambda: (zeros(),)),  # type: ignore
    r"the probe made torch.float32 of shape .3. and torch.float32 of shape .2., after 1 steps": change_shape,
    r"nudge.. after 1 steps: nudge the model first": nudge_late,
    r"reorder.. got tensors of 2 and 3 samples along dim 0": lambda r: r.reorder(torch.ones(2), torch.ones(3)),
    r"reorder.. got tensors of no samples": lambda recorder: recorder.reorder(),
    r"reorder.. got a str: expected tensors, or lists": lambda recorder: recorder.reorder({"x": ["a"]}),
    "the state is that of a run with kernel=b, not a, steps=2, not 1: give its settings": go_on_otherwise,
}


@pytest.mark.parametrize("message", MISUSES)
def test_a_misuse_is_told_in_a_line(message: str) -> None:
    with pytest.raises(BadInput, match=message) as told:
        MISUSES[message](Recorder(steps=1, settings={"kernel": "a"}))
    assert "\n" not in str(told.value)


def test_settings_that_cannot_be_written_and_folders_that_are_taken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="dtype is not JSON serializable"):
        Recorder(steps=1, settings={"dtype": torch.float32})
    for settings in ({"nudge": 2}, {"seed": "one"}):
        with pytest.raises(BadInput, match="expected an integer seed, and the nudge as an argument of its own"):
            Recorder(steps=1, settings=settings)
    with pytest.raises(BadInput, match="steps=0, nudge=0: expected steps of 1 or more"):
        Recorder(steps=0)
    recorded(folder=tmp_path)
    with pytest.raises(BadInput, match="holds a finished run: delete its trace.npz, or give another folder"):
        Recorder(tmp_path, steps=11)


def test_a_trace_of_another_framework_needs_what_the_reference_says(tmp_path: Path) -> None:
    import numpy as np

    np.savez(
        tmp_path / "trace.npz",
        version=5,
        settings=json.dumps({"seed": 0, "nudge": 0, "precision": "float32"}),
        losses=np.array([2.0, 1.0]),
        probe_steps=np.array([1, 2]),
        probes=np.zeros((2, 3, 4), np.float32),
        probe_dtype="float32",
        test_steps=np.array([], np.int64),
        tests=np.empty((0, 2)),
        fingerprints="{}",
        events="",
    )
    trace = trace_file.load(tmp_path)
    assert (trace.step, list(trace.probes), trace.first_outputs.shape) == (2, [1, 2], (3, 4))
