"""A run that resumes is the run that never stopped: in this process, to the last bit."""

import errno
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.helpers.commands import files_of, small, trained
from tests.helpers.published_files import shorten_mnist
from tests.helpers.runs import differences
from xent.recording.errors import BadInput, Stopped
from xent.recording.files import write_whole
from xent.training import checkpoint
from xent.training.loop import Step, fit

EPOCHS = {"batch_size": 600, "epochs": 4, "data.crop_padding": 2, "data.flip": "true"}  # of three steps


class Dropout(torch.nn.CrossEntropyLoss):  # which draws random numbers, and learns
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(input) * self.scale, target)


class NanOnce(torch.nn.CrossEntropyLoss):  # of all that there are, one is NaN at its third step
    steps, was_nan = 0, False

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.steps += input.requires_grad
        is_nan = self.steps == 3 and not NanOnce.was_nan
        NanOnce.was_nan |= is_nan
        return super().forward(input, target) + (torch.nan if is_nan else 0)


def killed_at(step: int, folder: Path, *overrides: str) -> None:
    """Train until the process would be killed, when a step was made and nothing of it was written."""

    def fit_and_die(*arguments: Any) -> Iterator[Step]:
        for current in fit(*arguments):
            if current.number >= step:
                raise SystemExit
            yield current

    with patch("train.fit", fit_and_die), pytest.raises(SystemExit):
        trained(folder, *overrides)


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_mnist(monkeypatch)


RUNS: dict[str, dict[str, Any]] = {
    "cnn": {"model": "cnn", "optimizer": "adamw", "precision": "float64"},
    "resnet": {"model": "resnet", "model.width": 2, "batch_size": 16},
    "dropout": {"precision": "bfloat16", "loss": "custom", "loss._target_": f"{__name__}.Dropout"},
    "epochs": {"precision": "float64", "loss_precision": "float32", "nudge": 1} | EPOCHS,
}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    overrides = small(**{"max_steps": 12, "log_every": 2, "checkpoint_every": 5, "batch_size": 64, **RUNS[name]})
    trained(tmp_path / "whole", *overrides)
    for step in (3, 6, 12):  # before the first checkpoint of a step, after it, and at the end
        killed_at(step, tmp_path / "killed", *overrides)
    trained(tmp_path / "killed", *overrides)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def test_more_epochs_resume_and_are_told_from_as_many_at_once(tmp_path: Path) -> None:
    """And what has no effect may change."""
    overrides = ["model=mlp", "model.width=4", "batch_size=600"]
    short = trained(tmp_path, *overrides, "epochs=2")
    grown = trained(tmp_path, *overrides, "epochs=3", "log_every=3", "checkpoint_every=2", "on_nonfinite=continue")
    assert torch.equal(grown.losses[:6], short.losses)
    assert (grown.step, list(grown.probes), list(grown.tests)) == (9, [0, 1, 2, 4, 8, 9], [3, 6, 9])
    assert grown.settings == short.settings | {"epochs": 3, "before": [{"epochs": 2}]}
    assert trained(tmp_path, *overrides, "epochs=4").settings["before"] == [{"epochs": 2}, {"epochs": 3}]


def test_no_flipped_byte_of_a_checkpoint_passes(tmp_path: Path) -> None:
    trained(tmp_path, *small(**{"model.width": 1}))
    (tmp_path / "checkpoint.previous.pt").unlink()
    content = (file := tmp_path / "checkpoint.pt").read_bytes()
    for at in [*range(0, len(content), len(content) // 200), len(content) - checkpoint.DIGEST, len(content) - 1]:
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        with pytest.raises(BadInput, match=r"checkpoint\.pt is damaged \(wrong checksum, .*\): train the run again"):
            checkpoint.load(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO], ids=os.strerror)
def test_a_file_that_cannot_be_written_is_left_as_it_was(number: int, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"old")
    with patch("os.fsync", side_effect=OSError(number, os.strerror(number))), pytest.raises(Stopped) as stopped:
        write_whole(file, BytesIO(b"new"), previous=tmp_path / "previous")
    advice = "" if number == errno.EIO else ": make room there"
    assert str(stopped.value) == f"cannot write {file} ({os.strerror(number)}){advice}"
    assert files_of(tmp_path) == {file: b"old"}


def test_a_loss_that_was_nan_before_a_run_resumed_does_not_keep_it_from_being_saved(tmp_path: Path) -> None:
    NanOnce.was_nan = False
    custom = {"loss": "custom", "loss._target_": f"{__name__}.NanOnce"}
    overrides = small(max_steps=12, checkpoint_every=5, **custom)
    killed_at(7, tmp_path, *overrides, "on_nonfinite=continue")
    trace = trained(tmp_path, *overrides, "on_nonfinite=stop")
    assert trace.losses.isfinite().tolist() == [step != 3 for step in range(1, 13)]
    assert len(checkpoint.load(tmp_path)["recorder"]["losses"]) == 12
