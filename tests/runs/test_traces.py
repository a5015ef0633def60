from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import run
from xent.runs import traces
from xent.runs.traces import load_runs
from xent.training.errors import BadInput
from xent.training.trace import Trace, is_probe_step


def trace() -> Trace:
    return Trace(
        settings={"loss": "torch", "seed": 0, "max_steps": None, "data.mean": [0.5]},
        losses=torch.tensor([0.1, 0.2]),
        step=2,
        probe_logits={0: torch.zeros(4, 3), 1: torch.ones(4, 3)},
        tests={2: (0.25, 0.5)},
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = trace()
    traces.save(saved, tmp_path)
    loaded = traces.load(tmp_path)
    assert loaded.settings == saved.settings
    assert torch.equal(loaded.losses, saved.losses.double())
    assert (loaded.step, loaded.tests) == (2, {2: (0.25, 0.5)})
    assert list(loaded.probe_logits) == [0, 1]
    assert all(torch.equal(loaded.probe_logits[step], logits) for step, logits in saved.probe_logits.items())
    assert loaded.name == tmp_path.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probe_logits_keep_their_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = trace()
    saved.probe_logits = {0: torch.rand(4, 3, dtype=dtype)}
    traces.save(saved, tmp_path)
    assert torch.equal(traces.load(tmp_path).probe_logits[0], saved.probe_logits[0])


def test_probe_steps_are_the_powers_of_two_and_the_last() -> None:
    assert [step for step in range(101) if is_probe_step(step, 100)] == [0, 1, 2, 4, 8, 16, 32, 64, 100]


def test_a_folder_without_a_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{tmp_path} has no trace.npz: expected the folder of a run"):
        traces.load(tmp_path)


def test_a_trace_of_another_version_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", version=0)
    with pytest.raises(BadInput, match=r"trace\.npz is of version 0, this xent reads 4"):
        traces.load(tmp_path)


DAMAGES = {
    "cut short": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "overwritten": lambda data: b"x" * 100,
    "a byte flipped": lambda data: data[:1500] + bytes([data[1500] ^ 255]) + data[1501:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_trace_is_named(damage: str, tmp_path: Path) -> None:
    traces.save(trace(), tmp_path)
    file = tmp_path / "trace.npz"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(BadInput, match=r"trace\.npz cannot be read"):
        traces.load(tmp_path)


def test_a_sweep_folder_stands_for_its_runs(tmp_path: Path) -> None:
    for loss in ("torch", "scratch"):
        (tmp_path / f"loss={loss}").mkdir()
        traces.save(run(loss), tmp_path / f"loss={loss}")
    (tmp_path / "comparison").mkdir()
    assert [trace.name for trace in load_runs([tmp_path])] == ["loss=scratch", "loss=torch"]
    assert [trace.name for trace in load_runs([tmp_path / "loss=torch"])] == ["loss=torch"]


def test_a_run_is_named_without_what_all_runs_share(tmp_path: Path) -> None:
    for name in ("loss=torch,model=mlp,seed=0", "loss=torch,model=mlp,seed=1"):
        (tmp_path / name).mkdir()
        traces.save(run("torch"), tmp_path / name)
    assert [trace.name for trace in load_runs([tmp_path])] == ["seed=0", "seed=1"]


def test_runs_of_several_sweeps_are_named_with_them(tmp_path: Path) -> None:
    for name in ("a/loss=torch", "b/loss=torch"):
        (tmp_path / name).mkdir(parents=True)
        traces.save(run("torch"), tmp_path / name)
    assert [t.name for t in load_runs([tmp_path / "a", tmp_path / "b"])] == ["a/loss=torch", "b/loss=torch"]


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    for name in ("loss=torch", "loss=scratch"):
        (tmp_path / name).mkdir()
    traces.save(run("torch"), tmp_path / "loss=torch")
    (tmp_path / "loss=scratch" / "checkpoint.pt").touch()
    with pytest.raises(BadInput, match="loss=scratch is not finished: go on with it, python train.py resume="):
        load_runs([tmp_path])


def test_a_trace_of_another_run_is_refused(tmp_path: Path) -> None:
    traces.save(run("torch"), tmp_path)
    (tmp_path / "events.out.tfevents.1").touch()
    with pytest.raises(BadInput, match=r"trace\.npz is of another run than events\.out\.tfevents\.1 beside it"):
        load_runs([tmp_path])
