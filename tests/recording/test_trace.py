import json
import math
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xent.recording.errors import BadInput
from xent.recording.settings import flat_settings
from xent.recording.trace import VERSION, Trace, load, save

SETTINGS = {"seed": 0, "nudge": 0, "precision": "float32"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_is_saved_is_what_is_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = Trace(SETTINGS | {"max_steps": None, "data.mean": [0.5]}, losses=torch.tensor([0.1, 0.2]), step=2)
    saved.probes = {step: torch.rand(4, 3, dtype=dtype) for step in (0, 1)}
    saved.tests, saved.fingerprints = {2: (0.25, 0.5)}, {"first weights": (1.0, 2.0, 3.0, 4.0)}
    saved.casts, saved.samples = {"bfloat16"}, {2: torch.rand(5, 3, dtype=torch.float64)}
    saved.bits = {0: -(2**63), 1: 2**63 - 1}
    saved.trials = {"logits of 1000": (450.0, math.inf)}
    save(saved, tmp_path)
    loaded = load(tmp_path)
    for name in ("settings", "step", "tests", "fingerprints", "casts", "trials", "bits"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert torch.equal(loaded.losses, saved.losses.double()) and list(loaded.probes) == [0, 1]
    assert all(torch.equal(loaded.probes[step], outputs) for step, outputs in saved.probes.items())
    assert [*loaded.samples] == [*saved.samples] and torch.equal(loaded.samples[2], saved.samples[2])
    assert (loaded.name, loaded.folder) == (tmp_path.name, tmp_path.resolve())


FOREIGN: dict[str, Any] = {
    "version": VERSION,
    "settings": json.dumps(SETTINGS),
    "losses": np.array([2.0, 1.0]),
    "probe_steps": np.array([1, 2]),
    "probes": np.zeros((2, 3, 4), np.float32),
    "probe_dtype": "float32",
    "test_steps": np.array([], np.int64),
    "tests": np.empty((0, 2)),
    "fingerprints": "{}",
    "bits": np.empty((0, 2), np.int64),
    "sample_steps": np.array([], np.int64),
    "samples": np.empty((0, 3)),
    "casts": "[]",
    "trial_names": "[]",
    "trials": np.empty((0, 2)),
    "captured": "[]",
    "sketches": np.array([]),
}
FAULTS: dict[str, dict[str, Any]] = {
    "settings need integers as seed and nudge, and a precision": {"settings": json.dumps({"seed": 0, "nudge": 0})},
    "settings need integers as seed and": {"settings": json.dumps({"seed": 0, "precision": "float32"})},
    "loss_precision is amp, expected a type of": {"settings": json.dumps(SETTINGS | {"loss_precision": "amp"})},
    r"losses are torch.float64 of shape .2, 1., expected one a step": {"losses": np.ones((2, 1))},
    r"losses are torch.float64 of shape .0., expected one a step": {"losses": np.ones(0)},
    r"losses are torch.int64 of shape .2., expected one a step": {"losses": np.array([2, 1])},
    r"2 probes after steps .2. of 2, expected them in order": {"probe_steps": np.array([2, 2])},
    r"2 probes after steps .2, 1. of 2, expected them in order": {"probe_steps": np.array([2, 1])},
    r"2 probes after steps .1, 3. of 2, expected them in order": {"probe_steps": np.array([1, 3])},
    r"1 probes after steps .0. of 2": {"probe_steps": np.array([0]), "probes": np.zeros((1, 3, 4))},
    "probes are torch.int32, expected floating point": {"probe_dtype": "int32"},
    "probe_dtype is load, expected a type of PyTorch's": {"probe_dtype": "load"},
    r"a table of shape .1, 2. for 2 rows of two numbers": {"test_steps": np.array([1, 2]), "tests": np.ones((1, 2))},
    r"a table of shape .1, 3. for 1 rows of two numbers": {"test_steps": np.array([1]), "tests": np.ones((1, 3))},
    r"a table of shape .1. for 1 rows of two numbers": {"trial_names": json.dumps(["logits"]), "trials": np.ones(1)},
    "not enough values to unpack": {"fingerprints": json.dumps({"batch 1": [1.0, 2.0, 3.0]})},
    "could not convert string to float": {"fingerprints": json.dumps({"batch 1": ["1", "many", "2", "3"]})},
    "samples are not three numbers each": {"samples": np.ones((2, 2)), "sample_steps": np.array([1, 1])},
    "2 samples of 1 steps": {"samples": np.ones((2, 3)), "sample_steps": np.array([1])},
    r"settings need integers as seed and nudge, and a precision, and have .{100,160}\): train": {
        "settings": json.dumps({"loss": "l" * 5000})
    },
    "split_with_sizes expects split_sizes to sum": {"captured": json.dumps([(1, "loss", [], "", 1)])},
}


def test_a_trace_of_another_framework_is_read_and_what_is_no_trace_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{tmp_path} has no trace.npz: expected the folder of a run"):
        load(tmp_path)
    np.savez(tmp_path / "trace.npz", version=0)
    with pytest.raises(BadInput, match=r"trace\.npz is of version 0, this xent reads 9"):
        load(tmp_path)
    np.savez(tmp_path / "trace.npz", **FOREIGN)
    trace = load(tmp_path)
    assert (trace.step, list(trace.probes), trace.first_outputs.shape) == (2, [1, 2], (3, 4))
    for message, fault in FAULTS.items():
        np.savez(tmp_path / "trace.npz", **FOREIGN | fault)
        with pytest.raises(BadInput, match=f"trace.npz cannot be read .{message}"):
            load(tmp_path)


def with_byte(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + bytes([value]) + content[at + 1 :]


def test_a_damaged_trace_is_refused_in_a_short_line(tmp_path: Path) -> None:
    """Whatever zip and NumPy make of it."""
    np.savez(tmp_path / "trace.npz", **FOREIGN)
    whole = (tmp_path / "trace.npz").read_bytes()
    central = whole.index(b"PK\x01\x02")  # of the directory's first entry
    header, shape = whole.index(b"'shape': (2,)"), b"(10000000000000,)"
    damages = {
        "numbers beyond all memory": whole.replace(b"(2,), }            ", shape + b", }   "),
        "a header that is no Python": whole[:header] + b'"shape' + whole[header + 6 :],
        "an encrypted file": with_byte(whole, central + 8, 1),
        "an unknown compression": with_byte(whole, central + 10, 99),
        "half of it": whole[: len(whole) // 2],
        "nothing": b"",
    }
    for damage, content in damages.items():
        assert content != whole, damage
        (tmp_path / "trace.npz").write_bytes(content)
        with pytest.raises(BadInput, match=r"trace\.npz cannot be read \(.{1,200}\): train the run again$"):
            load(tmp_path)


def test_settings_are_strict_json_under_names_of_their_own() -> None:
    assert flat_settings({"weight": [nan, inf, -inf, 1.0]}) == {"weight": ["NaN", "Infinity", "-Infinity", 1.0]}
    for twice in ({"a": {"b": 1}, "a.b": 2}, {"a.b": 2, "a": {"b": 1}}, {1: 1, "1": 2}):
        with pytest.raises(BadInput, match="^settings have (a.b|1) twice: expected every"):
            flat_settings(twice)
