from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.recording.fingerprint import may_be_equal
from xent.recording.trace import Trace, load

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
    loaded = load(tmp_path / "runs" / "mine")
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


def test_every_module_is_nudged_by_bits_of_its_own() -> None:
    recorder, modules = Recorder(steps=1, nudge=1), [nn.Linear(8, 8) for _ in range(2)]
    for module in modules:
        nn.init.ones_(module.weight)
        recorder.nudge(module)
    first, second = (module.weight.detach() - 1 for module in modules)
    assert first.all() and second.all() and first.abs().max() < 1e-6
    assert not torch.equal(first, second)


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
    (outputs,) = load(tmp_path).probes.values()
    assert torch.equal(outputs, torch.tensor(1 / 3, dtype=dtype)) and outputs.dtype == dtype


def zeros() -> Tensor:
    return torch.zeros(2)


def test_settings_are_flat_and_plain(tmp_path: Path) -> None:
    settings = {"optimizer": {"lr": np.float64(0.1), "betas": (0.9, 0.99)}, "dtype": torch.float32, "data": tmp_path}
    found = Recorder(steps=1, settings=settings).trace.settings
    assert found["optimizer.lr"] == 0.1 and found["optimizer.betas"] == [0.9, 0.99]
    assert (found["dtype"], found["data"], found["seed"], found["nudge"]) == ("torch.float32", str(tmp_path), 0, 0)


@pytest.mark.parametrize("settings", [{"nudge": 2}, {"seed": "one"}, {"seed": None}])
def test_a_seed_is_an_integer_and_there_is_one_nudge(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="expected an integer seed, and the nudge as an argument of its own"):
        Recorder(steps=1, settings=settings)


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": 10.0}, {"steps": 1, "nudge": -1}])
def test_steps_and_nudges_are_counts(arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="expected an integer of 1 or more, and one of 0 or more"):
        Recorder(**arguments)


def test_a_folder_that_is_taken_or_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    recorded(folder=tmp_path)
    with pytest.raises(BadInput, match=r"holds a finished run: delete its trace.npz, or give another folder"):
        Recorder(tmp_path, steps=11)
    with pytest.raises(BadInput, match=r"trace.npz/run cannot be made .Not a directory.: give another folder"):
        Recorder(tmp_path / "trace.npz" / "run", steps=11)


def test_a_loss_that_is_a_number_of_pythons_keeps_its_digits() -> None:
    recorder = Recorder(steps=1)
    recorder.step(1 / 3, zeros)
    assert recorder.trace.losses.item() == 1 / 3


def test_a_state_is_not_changed_by_what_follows() -> None:
    recorder = Recorder(steps=2)
    recorder.step(1.0, zeros)
    state = recorder.state_dict()
    recorder.step(1.0, zeros)
    assert list(state["probes"]) == [1]
