from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from xent.recording import BadInput, Recorder
from xent.recording.fingerprint import may_be_equal
from xent.recording.trace import Trace, load

FIXED = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)


def zeros() -> Tensor:
    return torch.zeros(2)


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
    trace = recorded(folder=tmp_path / "runs" / "mine", settings={"kernel": "mine", "seed": 3}, nudge=2)
    loaded = load(tmp_path / "runs" / "mine")
    expected = {"kernel": "mine", "seed": 3, "nudge": 2, "precision": "float64", "device": "cpu"}
    assert expected.items() <= loaded.settings.items()
    assert {"machine.processor", "machine.threads", "machine.torch"} < set(loaded.settings)
    assert recorded(settings={"precision": "bfloat16"}).settings["precision"] == "bfloat16", "what one says counts"
    assert list(loaded.probes) == [1, 2, 4, 8, 11]
    assert torch.equal(loaded.losses, trace.losses) and loaded.losses.isfinite().all()
    assert all(torch.equal(outputs, trace.probes[step]) for step, outputs in loaded.probes.items())


def test_a_nudge_of_0_changes_nothing_and_others_change_rounding() -> None:
    recorder, model, (x, y) = Recorder(steps=1), nn.Linear(4, 8), batch(1)
    before = model.weight.detach().clone()
    recorder.nudge(model)
    assert torch.equal(model.weight, before)
    same_x, same_y = recorder.reorder(x, y)
    assert same_x is x and same_y is y
    assert 0 < (recorded(nudge=1).probes[1] - recorded().probes[1]).abs().max() < 1e-9


def test_every_module_is_nudged_by_bits_of_its_own() -> None:
    recorder, modules = Recorder(steps=1, nudge=1), [nn.Linear(8, 8) for _ in range(2)]
    for module in modules:
        nn.init.ones_(module.weight)
        recorder.nudge(module)
    first, second = (module.weight.detach() - 1 for module in modules)
    assert first.all() and second.all() and first.abs().max() < 1e-6
    assert not torch.equal(first, second)


def test_all_tensors_of_a_batch_are_reordered_together_along_the_dimension_that_is_named() -> None:
    recorder, x, y = Recorder(steps=1, nudge=1), torch.arange(6), torch.arange(12).view(6, 2)
    order, moved = recorder.reorder(x, y)
    assert sorted(order.tolist()) == x.tolist() != order.tolist()
    assert torch.equal(moved, y[order])
    assert torch.equal(recorder.reorder(y.T, dim=1), y[order].T)
    assert [tensor.tolist() for tensor in recorder.reorder([x])] == [order.tolist()]
    nested = recorder.reorder({"x": x, "more": [x, (x, x)]})
    assert str(nested) == str({"x": order, "more": [order, (order, order)]})


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


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    torch.save(training(Recorder(steps=11, nudge=1), stop), tmp_path / "state.pt")
    recorder = Recorder(steps=11, nudge=1)
    training(recorder, state=torch.load(tmp_path / "state.pt", weights_only=True))
    resumed, whole = recorder.trace, recorded(nudge=1)
    assert torch.equal(resumed.losses, whole.losses)
    assert list(resumed.probes) == list(whole.probes)
    assert all(map(torch.equal, resumed.probes.values(), whole.probes.values()))
    assert resumed.fingerprints == whole.fingerprints


def test_what_a_run_was_given_is_recorded_whatever_its_order_and_nudge() -> None:
    plain, nudged, other = recorded(), recorded(nudge=1), recorded(settings={"seed": 1})
    assert list(plain.fingerprints) == ["first weights", *(f"batch {step}" for step in (1, 2, 4, 8, 11))]
    assert all(may_be_equal(nudged.fingerprints[name], sums) for name, sums in plain.fingerprints.items())
    assert not may_be_equal(plain.fingerprints["first weights"], other.fingerprints["first weights"])
    assert not may_be_equal(plain.fingerprints["batch 1"], plain.fingerprints["batch 2"])


def test_settings_are_flat_and_plain(tmp_path: Path) -> None:
    settings = {"optimizer": {"lr": np.float32(0.5), "betas": (0.9, 0.99)}, "dtype": torch.float32, "data": tmp_path}
    flat = {"optimizer.lr": 0.5, "optimizer.betas": [0.9, 0.99], "dtype": "torch.float32", "data": str(tmp_path)}
    assert Recorder(steps=1, settings=settings).trace.settings == {"seed": 0, "nudge": 0} | flat


@pytest.mark.parametrize("loss", [1 / 3, torch.tensor([[1 / 3]], dtype=torch.float64)])
def test_a_loss_keeps_its_digits_and_a_state_its_steps(loss: float | Tensor) -> None:
    recorder = Recorder(steps=2)
    recorder.step(loss, zeros)
    state = recorder.state_dict()
    recorder.step(1.0, zeros)
    assert recorder.trace.losses.tolist() == [1 / 3, 1.0]
    assert state["losses"].tolist() == [1 / 3] and list(state["probes"]) == [1], "what follows does not change it"


def refused(message: str) -> AbstractContextManager[object]:
    """A misuse is told in a line."""
    return pytest.raises(BadInput, match=rf"^{message}.*\Z")


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": 10.0}, {"steps": 1, "nudge": -1}])
def test_steps_and_nudges_are_counts(arguments: dict[str, Any]) -> None:
    with refused("steps=.*: expected an integer of 1 or more, and one of 0 or more"):
        Recorder(**arguments)


@pytest.mark.parametrize("settings", [{"nudge": 2}, {"seed": "one"}, {"seed": None}])
def test_a_seed_is_an_integer_and_there_is_one_nudge(settings: dict[str, Any]) -> None:
    with refused("settings have .*: expected an integer seed, and the nudge as an argument of its own"):
        Recorder(steps=1, settings=settings)


def test_a_folder_that_is_taken_or_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "trace.npz").touch()
    with refused(f"{tmp_path} holds a finished run: delete its trace.npz, or give another folder"):
        Recorder(tmp_path, steps=1)
    with refused(".*trace.npz/run cannot be made .Not a directory.: give another folder"):
        Recorder(tmp_path / "trace.npz" / "run", steps=1)


def test_a_loop_that_counts_its_steps_or_nudges_wrongly_is_told() -> None:
    recorder, model = Recorder(steps=1), nn.Linear(1, 1)
    recorder.nudge(model)
    with refused("nudge.. got the same module twice"):
        recorder.nudge(model)
    with refused("finish.. after 0 of 1 steps: make them all, or give fewer"):
        recorder.finish()
    with refused("step.. got a loss of shape .3.: expected a scalar"):
        recorder.step(torch.ones(3), zeros)
    recorder.step(1.0, zeros)
    with refused("step.. was called more than steps=1 times: give the number of steps you make"):
        recorder.step(1.0, zeros)
    with refused("nudge.. after 1 steps: nudge the model first"):
        recorder.nudge(nn.Linear(1, 1))


def test_outputs_are_floating_point_numbers_of_one_shape_and_type() -> None:
    integers, empty = torch.ones(1).long(), torch.zeros(0)
    kinds = {"torch.int64 of shape .1.": integers.clone, "torch.float32 of shape .0.": empty.clone, "tuple": tuple}
    for kind, probe in kinds.items():
        with refused(f"the probe made {kind}: expected a tensor of floating point"):
            Recorder(steps=1).begin(probe)  # type: ignore[arg-type]
    for before in (torch.zeros(3), torch.zeros(2).double()):
        recorder = Recorder(steps=1)
        recorder.begin(before.clone)
        kinds = f"{before.dtype} of shape .{len(before)}. and torch.float32 of shape .2."
        with refused(f"the probe made {kinds}, after 1 steps: expected one shape and type"):
            recorder.step(1.0, zeros)


def test_a_batch_is_of_tensors_of_as_many_samples() -> None:
    with refused("reorder.. got tensors of 2 and 3 samples along dim 0"):
        Recorder(steps=1).reorder(torch.ones(2), torch.ones(3))
    with refused("reorder.. got tensors of no samples"):
        Recorder(steps=1).reorder()
    with refused("reorder.. got a str: expected tensors, or lists"):
        Recorder(steps=1).reorder({"x": ["a"]})


def test_a_run_goes_on_with_its_settings() -> None:
    state = Recorder(steps=2, settings={"kernel": "b"}).state_dict()
    with refused("the state is that of a run with kernel=b, not a, steps=2, not 1: give its settings"):
        Recorder(steps=1, settings={"kernel": "a"}).load_state_dict(state)
