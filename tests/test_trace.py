from pathlib import Path

import numpy as np
import pytest
import torch

from xent.errors import BadInput
from xent.trace import Trace, is_probe_step


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
    saved.save(tmp_path)
    loaded = Trace.load(tmp_path)
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
    saved.save(tmp_path)
    assert torch.equal(Trace.load(tmp_path).probe_logits[0], saved.probe_logits[0])


def test_probe_steps_are_the_powers_of_two_and_the_last() -> None:
    assert [step for step in range(101) if is_probe_step(step, 100)] == [0, 1, 2, 4, 8, 16, 32, 64, 100]


def test_a_folder_without_a_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{tmp_path} has no trace.npz: expected the folder of a run"):
        Trace.load(tmp_path)


def test_a_trace_of_another_version_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "trace.npz", version=0)
    with pytest.raises(BadInput, match=r"trace\.npz is of version 0, this xent reads 3"):
        Trace.load(tmp_path)


DAMAGES = {
    "cut short": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "overwritten": lambda data: b"x" * 100,
    "a byte flipped": lambda data: data[:1500] + bytes([data[1500] ^ 255]) + data[1501:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_trace_is_named(damage: str, tmp_path: Path) -> None:
    trace().save(tmp_path)
    file = tmp_path / "trace.npz"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(BadInput, match=r"trace\.npz cannot be read"):
        Trace.load(tmp_path)
