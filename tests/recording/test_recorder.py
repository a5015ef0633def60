import os
import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import Tensor, distributed, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from xent.recording import BadInput, Recorder
from xent.recording.fingerprint import may_be_equal
from xent.recording.trace import Trace, load
from xent.verdict.floor import bitwise_identical, output_gaps
from xent.verdict.matching import first_mismatch

FIXED = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
ZEROS = torch.zeros(2).clone  # a probe


def batch(step: int) -> tuple[Tensor, Tensor]:
    numbers = torch.randn(6, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return numbers[:, :4], numbers[:, 4:]


def refused(message: str) -> AbstractContextManager[object]:
    """A misuse is told in a line."""
    return pytest.raises(BadInput, match=rf"^{message}.*\Z")


def loop(recorder: Recorder, model: nn.Module, optimizer: Optimizer, stop: int, rows: slice = slice(None)) -> None:
    """A person's own, on these rows of every batch."""
    for step in range(recorder.trace.step + 1, stop + 1):
        x, y = recorder.reorder(*(numbers[rows] for numbers in batch(step)))
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, probe=lambda: model(FIXED))


def training(recorder: Recorder, stop: int | None = None, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """From a state that it left, up to a step; returns its state then."""
    torch.manual_seed(recorder.seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).double()
    recorder.nudge(model)
    parts = {"model": model, "optimizer": AdamW(model.parameters(), lr=0.01), "recorder": recorder}
    for name, part in parts.items() if state else ():
        part.load_state_dict(state[name])
    loop(recorder, model, parts["optimizer"], stop or recorder.steps)
    return {name: part.state_dict() for name, part in parts.items()}


def recorded(**arguments: Any) -> Trace:
    recorder = Recorder(**{"steps": 11, **arguments})
    training(recorder)
    recorder.finish()
    return recorder.trace


def test_a_loop_of_ones_own_leaves_a_trace_with_flat_and_plain_settings(tmp_path: Path) -> None:
    settings = {"optimizer": {"lr": np.float32(0.5), "betas": (0.9, 0.99)}, "dtype": torch.float32, "data": tmp_path}
    flat = {"optimizer.lr": 0.5, "optimizer.betas": [0.9, 0.99], "dtype": "torch.float32", "data": str(tmp_path)}
    assert Recorder(steps=1, settings=settings).trace.settings == {"seed": 0, "nudge": 0} | flat
    trace = recorded(folder=tmp_path / "runs" / "mine", settings=settings | {"seed": 3}, nudge=2)
    loaded = load(tmp_path / "runs" / "mine")
    assert (flat | {"seed": 3, "nudge": 2, "precision": "float64", "device": "cpu"}).items() <= loaded.settings.items()
    assert {"machine.processor", "machine.threads", "machine.torch"} < set(loaded.settings)
    assert recorded(settings={"precision": "bfloat16"}).settings["precision"] == "bfloat16", "what one says counts"
    assert list(loaded.probes) == [1, 2, 4, 8, 11]
    assert bitwise_identical(loaded, trace) and loaded.losses.isfinite().all()


def test_a_nudge_of_0_changes_nothing_and_others_nudge_every_module_by_bits_of_its_own() -> None:
    numbers, modules = batch(1), [nn.Linear(8, 8) for _ in range(3)]
    recorders = [Recorder(steps=1, nudge=nudge) for nudge in (0, 1)]
    for recorder, module in zip((recorders[0], recorders[1], recorders[1]), modules):
        nn.init.ones_(module.weight)
        recorder.nudge(module)
    same, first, second = (module.weight.detach() - 1 for module in modules)
    assert not same.any() and first.all() and second.all() and first.abs().max() < 1e-6
    assert not torch.equal(first, second)
    assert all(same is given for same, given in zip(recorders[0].reorder(*numbers), numbers, strict=True))
    assert 0 < (recorded(nudge=1).probes[1] - recorded().probes[1]).abs().max() < 1e-9


def test_all_tensors_of_a_batch_are_of_as_many_samples_and_reordered_together_along_a_dimension() -> None:
    recorder, x, y = Recorder(steps=1, nudge=1), torch.arange(6), torch.arange(12).view(6, 2)
    order, moved = recorder.reorder(x, y)
    assert sorted(order.tolist()) == x.tolist() != order.tolist()
    assert torch.equal(moved, y[order]) and torch.equal(recorder.reorder(y.T, dim=1), y[order].T)
    assert [tensor.tolist() for tensor in recorder.reorder([x])] == [order.tolist()]
    nested = recorder.reorder({"x": x, "more": [x, (x, x)]})
    assert str(nested) == str({"x": order, "more": [order, (order, order)]})
    with refused("reorder.. got tensors of 2 and 6 samples along dim 0"):
        recorder.reorder(x, y.T)
    for nothing in ((), (torch.tensor(1.0),)):
        with refused("reorder.. got tensors of (no|0) samples"):
            recorder.reorder(*nothing)


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
def test_a_run_that_was_killed_goes_on_to_the_same_bits_with_its_settings(stop: int, tmp_path: Path) -> None:
    torch.save(training(Recorder(steps=11, nudge=1), stop), tmp_path / "state.pt")
    recorder, state = Recorder(steps=11, nudge=1), torch.load(tmp_path / "state.pt", weights_only=True)
    training(recorder, state=state)
    resumed, whole = recorder.trace, recorded(nudge=1)
    assert bitwise_identical(resumed, whole) and resumed.probes.keys() == whole.probes.keys()
    assert resumed.fingerprints == whole.fingerprints
    with refused("the state is that of a run with nudge=1, not 2, steps=11, not 12: give its settings"):
        Recorder(steps=12, nudge=2).load_state_dict(state["recorder"])


def test_what_a_run_was_given_is_recorded_whatever_its_order_nudge_and_parts() -> None:
    plain, nudged, other = recorded(), recorded(nudge=1), recorded(settings={"seed": 1})
    assert list(plain.fingerprints) == ["first weights", *(f"batch {step}" for step in (1, 2, 4, 8, 11))]
    assert all(may_be_equal(nudged.fingerprints[name], sums) for name, sums in plain.fingerprints.items())
    assert not may_be_equal(plain.fingerprints["first weights"], other.fingerprints["first weights"])
    assert not may_be_equal(plain.fingerprints["batch 1"], plain.fingerprints["batch 2"])
    in_parts = Recorder(steps=1)
    for part in zip(*(tensor.chunk(3) for tensor in batch(1))):
        in_parts.reorder(*part)
    assert in_parts.trace.fingerprints["batch 1"] == pytest.approx(plain.fingerprints["batch 1"], rel=1e-12)


@pytest.mark.parametrize("loss", [1 / 3, torch.tensor([[1 / 3]], dtype=torch.float64)])
def test_a_loss_keeps_its_digits_and_a_state_its_steps(loss: float | Tensor) -> None:
    recorder = Recorder(steps=2)
    recorder.step(loss, ZEROS)
    state = recorder.state_dict()
    recorder.step(1.0, ZEROS)
    assert recorder.trace.losses.tolist() == [1 / 3, 1.0]
    assert state["losses"].tolist() == [1 / 3] and list(state["probes"]) == [1], "what follows does not change it"


def test_a_recorder_takes_counts_an_integer_seed_one_nudge_and_a_folder_of_its_own(tmp_path: Path) -> None:
    for arguments in ({"steps": 0}, {"steps": 10.0}, {"nudge": -1}):
        with refused("steps=.*: expected an integer of 1 or more, or None, and one of 0 or more"):
            Recorder(**{"steps": 1} | arguments)
    assert Recorder(steps=1, settings={"nudge": 2}).trace.settings["nudge"] == 2
    for settings in ({"nudge": 2}, {"seed": "one"}, {"seed": None}):
        with refused("settings have .*: expected an integer seed, and the nudge that is given, if one is"):
            Recorder(steps=1, settings=settings, nudge=0)
    assert "out" not in Recorder(tmp_path, settings={"out": str(tmp_path)}).trace.settings, "as two runs differ in it"
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
    with refused("step.. got a loss of float32 of shape .3.: expected a real scalar"):
        recorder.step(torch.ones(3), ZEROS)
    with refused("step.. got a loss of complex64 of shape ..: expected a real scalar"):
        recorder.step(torch.tensor(1 + 1j), ZEROS)
    for nothing in (None, "1 j"):
        with refused(f"step.. got {type(nothing).__name__} as the loss: expected a number"):
            recorder.step(nothing, ZEROS)  # type: ignore[arg-type]
    with refused("reorder.. got tensors of no samples along dim 0"):
        recorder.reorder(torch.tensor(1.0))
    recorder.step(1.0, ZEROS)
    with refused("step.. was called more than steps=1 times: give the number of steps you make"):
        recorder.step(1.0, ZEROS)
    with refused("nudge.. after 1 steps: nudge the model first"):
        recorder.nudge(nn.Linear(1, 1))


def test_outputs_are_floating_point_numbers_of_one_shape_and_type() -> None:
    integers, empty = torch.ones(1).long(), torch.zeros(0)
    kinds = {"torch.int64 of shape .1.": integers.clone, "torch.float32 of shape .0.": empty.clone, "tuple": tuple}
    kinds |= {"torch.float8_e5m2 of shape .2.": torch.zeros(2).to(torch.float8_e5m2).clone}
    kinds |= {"torch.float32 of shape .1, 1.": torch.ones(1, 1).to_sparse().clone}
    for kind, probe in kinds.items():
        with refused(f"the probe made {kind}: expected a dense tensor of floating"):
            Recorder(steps=1).begin(probe)
    for before in (torch.zeros(3), torch.zeros(2).double()):
        recorder = Recorder(steps=1)
        recorder.begin(before.clone)
        both = f"{before.dtype} of shape .{len(before)}. and torch.float32 of shape .2."
        with refused(f"the probe made {both}, after 1 steps: expected one shape and type"):
            recorder.step(1.0, ZEROS)


RUN = {"steps": 9, "settings": {"seed": 0}, "nudge": 1}
# PyTorch 2.6 trains no shards on a CPU.
WRAPPED = ["replicated", *(["sharded"] if Version(torch.__version__) >= Version("2.7") else [])]


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 2)).double()


def train(network: nn.Module, recorder: Recorder, rows: slice = slice(None)) -> None:
    loop(recorder, network, SGD(network.parameters(), lr=0.1), recorder.steps, rows)
    recorder.finish()


def process(rank: int, folder: Path) -> None:
    """One of two, with gloo, which record a training of a replicated model and of a sharded one."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # slow to import

    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    replicated, sharded = two_layers(), two_layers()
    fully_shard(sharded)
    of_replicated, of_sharded = (Recorder(folder / name, **RUN) for name in ("replicated", "sharded"))
    of_replicated.nudge(replicated)
    of_sharded.nudge(sharded)
    for split, whole in zip(sharded.parameters(), replicated.parameters(), strict=True):
        assert torch.equal(split.full_tensor(), whole)  # type: ignore[attr-defined]
    share = slice(3 * rank, 3 * rank + 3)  # of six samples
    train(DistributedDataParallel(replicated), of_replicated, share)
    if "sharded" in WRAPPED:
        train(sharded, of_sharded, share)
    for original in (False, True):
        flat = FullyShardedDataParallel(two_layers(), device_id=torch.device("cpu"), use_orig_params=original)
        with pytest.raises(BadInput, match="hides the weights: nudge the model, then wrap it"):
            Recorder(**RUN).nudge(flat)
    # A wrapped model keeps the threads of gloo alive, and one that holds a tensor still while
    # the interpreter ends aborts the process. So the interpreter is not ended.
    os._exit(0)


@pytest.mark.slow
def test_two_processes_leave_the_trace_of_one_and_flat_shares_are_refused(tmp_path: Path) -> None:
    recorder, network = Recorder(tmp_path / "alone", **RUN), two_layers()
    recorder.nudge(network)
    train(network, recorder)
    torch.multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    one = load(tmp_path / "alone")
    for wrapped in WRAPPED:
        two = load(tmp_path / wrapped)
        assert max(output_gaps(two, one).values()) < 1e-14, "nudged alike, and fed alike"
        torch.testing.assert_close(two.losses, one.losses, rtol=1e-13, atol=0)
        assert all(may_be_equal(two.fingerprints[name], sums) for name, sums in one.fingerprints.items())
        assert two.settings == one.settings


def test_a_list_inside_a_batch_holds_a_sample_in_each_element() -> None:
    pictures, target = [torch.full((3, 4 + i), float(i)) for i in range(3)], torch.arange(3)
    recorder = Recorder(steps=1, nudge=1)
    while (moved := recorder.reorder(pictures, {"boxes": [{"of": i} for i in range(3)], "target": target}))[0][0][
        0, 0
    ] == 0:
        recorder.trace.settings["nudge"] += 1  # until the first sample is another
    order = [int(picture[0, 0]) for picture in moved[0]]
    assert sorted(order) == [0, 1, 2] and [picture.shape for picture in moved[0]] == [(3, 4 + i) for i in order]
    assert moved[1]["boxes"] == [{"of": i} for i in order] and moved[1]["target"].tolist() == order
    two_targets = recorder.reorder(target, (10 + target, 20 + target))
    assert [part.tolist() for part in two_targets[1]] == [[10 + i for i in order], [20 + i for i in order]]
    from_loader = recorder.reorder([torch.stack([target, target], 1), target])
    assert isinstance(from_loader, list) and from_loader[0][:, 0].tolist() == from_loader[1].tolist() == order
    with refused("reorder.. got tensors of 2 and 3 samples along dim 0"):
        recorder.reorder(target, [torch.zeros(2), torch.zeros(2)])


@pytest.mark.parametrize("kind", [float, int])
def test_a_replaced_sample_is_named_by_step_and_place_in_whatever_order_and_precision(kind: type) -> None:
    def given(change: bool, order: slice = slice(None), dtype: torch.dtype = torch.float64) -> Trace:
        recorder = Recorder(steps=3)
        for step in (1, 2, 3):
            x, y = batch(step)
            labels = torch.arange(6)
            if change and step == 2:
                x[4, 1] += 1e-3 if kind is float else 0
                labels[4] += kind is int
            masks = torch.full((6, 4), -torch.inf).triu()
            recorder.reorder(masks, x.to(dtype)[order], [{"box": box} for box in y[order]], labels[order])
            recorder.step(0.0, ZEROS)
        return recorder.trace

    assert first_mismatch(given(change=True), given(change=False)) == "another sample 4 in the batch of step 2"
    assert first_mismatch(given(change=False, dtype=torch.float32), given(change=False)) == ""
    assert first_mismatch(given(change=False, order=[3, 1, 0, 2, 5, 4]), given(change=False)) == ""


class Merging(nn.Linear):
    """As loralib's layers, which merge weights for evaluation."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        self.merged = not mode
        return super().train(mode)


def test_a_probe_leaves_layers_that_do_more_than_set_a_flag_and_the_generator_as_they_were() -> None:
    model = nn.Sequential(Merging(4, 2), Merging(2, 2))
    model[1].eval()
    recorder = Recorder(steps=1)
    recorder.nudge(model)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    recorder.begin(lambda: torch.rand(2) + model[0].merged * model[1].merged)
    assert [layer.merged for layer in model] == [False, True] == [not layer.training for layer in model]
    assert recorder.trace.first_outputs.min() >= 1, "the probe saw merged layers"
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("name", "draw"), [("Python", random.random), ("NumPy", np.random.rand), ("", torch.rand)])
def test_a_probe_that_moves_other_generators_is_warned_of(name: str, draw: Callable[..., Any]) -> None:
    recorder = Recorder(steps=1)
    with warnings.catch_warnings(record=True) as told:
        recorder.step(0.0, lambda: torch.ones(2) + 0 * float(draw() if name else draw(())))
    expected = [f"the probe drew random numbers of {name}, which moves those of the training"] if name else []
    assert [str(warning.message).partition(":")[0] for warning in told] == expected
