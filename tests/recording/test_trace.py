import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xent.recording.errors import BadInput
from xent.recording.trace import VERSION, Trace, is_probe_step, load, save


def trace() -> Trace:
    return Trace(
        settings={"seed": 0, "nudge": 0, "precision": "float32", "max_steps": None, "data.mean": [0.5]},
        losses=torch.tensor([0.1, 0.2]),
        step=2,
        probes={0: torch.zeros(4, 3), 1: torch.ones(4, 3)},
        tests={2: (0.25, 0.5)},
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = trace()
    save(saved, tmp_path)
    loaded = load(tmp_path)
    assert loaded.settings == saved.settings
    assert torch.equal(loaded.losses, saved.losses.double())
    assert (loaded.step, loaded.tests) == (2, {2: (0.25, 0.5)})
    assert list(loaded.probes) == [0, 1]
    assert all(torch.equal(loaded.probes[step], logits) for step, logits in saved.probes.items())
    assert loaded.name == tmp_path.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probes_keep_their_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = trace()
    saved.probes = {0: torch.rand(4, 3, dtype=dtype), 2: torch.rand(4, 3, dtype=dtype)}
    save(saved, tmp_path)
    assert torch.equal(load(tmp_path).probes[0], saved.probes[0])


def test_probe_steps_are_the_powers_of_two_and_the_last() -> None:
    assert [step for step in range(101) if is_probe_step(step, 100)] == [0, 1, 2, 4, 8, 16, 32, 64, 100]


def test_a_folder_without_a_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{tmp_path} has no trace.npz: expected the folder of a run"):
        load(tmp_path)


def test_a_trace_of_another_version_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", version=0)
    with pytest.raises(BadInput, match=r"trace\.npz is of version 0, this xent reads 6"):
        load(tmp_path)


DAMAGES = {
    "cut short": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "overwritten": lambda data: b"x" * 100,
    "a byte flipped": lambda data: data[:1500] + bytes([data[1500] ^ 255]) + data[1501:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_trace_is_named(damage: str, tmp_path: Path) -> None:
    save(trace(), tmp_path)
    file = tmp_path / "trace.npz"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(BadInput, match=r"trace\.npz cannot be read"):
        load(tmp_path)


FOREIGN: dict[str, Any] = {
    "version": VERSION,
    "settings": json.dumps({"seed": 0, "nudge": 0, "precision": "float32"}),
    "losses": np.array([2.0, 1.0]),
    "probe_steps": np.array([1, 2]),
    "probes": np.zeros((2, 3, 4), np.float32),
    "probe_dtype": "float32",
    "test_steps": np.array([], np.int64),
    "tests": np.empty((0, 2)),
    "fingerprints": "{}",
}
FAULTS: dict[str, dict[str, Any]] = {
    "settings need integers as seed and nudge, and a precision": {"settings": json.dumps({"seed": 0, "nudge": 0})},
    "loss_precision is amp, expected a type of PyTorch's": {
        "settings": json.dumps({"seed": 0, "nudge": 0, "precision": "float32", "loss_precision": "amp"})
    },
    r"losses are torch.float64 of shape .2, 1., expected one a step": {"losses": np.ones((2, 1))},
    r"losses are torch.float64 of shape .0., expected one a step": {"losses": np.ones(0)},
    r"2 probes after steps .2. of 2, expected them in order": {"probe_steps": np.array([2, 2])},
    r"2 probes after steps .1, 3. of 2, expected them in order": {"probe_steps": np.array([1, 3])},
    r"2 probes after steps .0. of 2, expected them": {"probe_steps": np.array([0])},
    "probes are torch.int32, expected floating point": {"probe_dtype": "int32"},
}


def test_a_trace_of_another_framework_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", **FOREIGN)
    trace = load(tmp_path)
    assert (trace.step, list(trace.probes), trace.first_outputs.shape) == (2, [1, 2], (3, 4))


@pytest.mark.parametrize("message", FAULTS)
def test_arrays_that_are_no_trace_are_told(message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", **FOREIGN | FAULTS[message])
    with pytest.raises(BadInput, match=f"trace.npz cannot be read .{message}"):
        load(tmp_path)
