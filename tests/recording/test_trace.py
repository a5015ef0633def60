import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xent.recording.errors import BadInput
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
