"""A run that resumes is the run that never stopped: in this process, to the last bit."""

import errno
import os
import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.helpers.commands import run_of, small, trained
from tests.helpers.faults import files_of
from tests.helpers.faulty_losses import NanOnce
from tests.helpers.published_files import shorten_mnist
from tests.helpers.runs import differences
from train import train
from xent.recording.errors import BadInput, Stopped
from xent.recording.files import write_whole
from xent.recording.trace import load
from xent.training import checkpoint
from xent.training.loop import Step, fit


class Dropout(torch.nn.CrossEntropyLoss):
    """A loss that draws random numbers, and learns."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(input) * self.scale, target)


class Killed(BaseException):
    pass


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    """Train until the process would be killed, when a step was made and nothing of it was written."""

    def fit_and_die(*arguments: Any) -> Iterator[Step]:
        for current in fit(*arguments):
            if current.number >= step:
                raise Killed
            yield current

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("train.fit", fit_and_die)
        again(folder, *overrides)


def again(folder: Path, *overrides: str) -> None:
    train(run_of(folder, *overrides))


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_mnist(monkeypatch)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "cnn", "optimizer": "adamw", "precision": "float64"},
        {"model": "resnet", "model.width": 2, "batch_size": 16},
        {"precision": "bfloat16", "loss": "custom", "loss._target_": "tests.training.test_checkpoint.Dropout"},
        {
            **{"precision": "float64", "loss_precision": "float32", "nudge": 1},
            **{"data.crop_padding": 2, "data.flip": "true", "batch_size": 600, "epochs": 4},  # of three steps
        },
    ],
    ids=["cnn", "resnet", "dropout", "epochs"],
)
def test_a_killed_run_resumes_bit_for_bit(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = small(**{"max_steps": 12, "log_every": 2, "checkpoint_every": 5, "batch_size": 64, **settings})
    trained(tmp_path / "whole", *overrides)
    for step in (3, 6, 12):  # before the first checkpoint of a step, after it, and at the end
        killed_at(step, monkeypatch, tmp_path / "killed", *overrides)
    again(tmp_path / "killed", *overrides)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def test_more_epochs_resume_and_are_told_from_as_many_at_once(tmp_path: Path) -> None:
    """And what has no effect may change."""
    overrides = ["model=mlp", "model.width=4", "batch_size=600"]
    short = trained(tmp_path, *overrides, "epochs=2")
    again(tmp_path, *overrides, "epochs=3", "log_every=3", "checkpoint_every=2", "on_nonfinite=continue")
    grown = load(tmp_path)
    assert torch.equal(grown.losses[:6], short.losses)
    assert (grown.step, list(grown.probes), list(grown.tests)) == (9, [0, 1, 2, 4, 8, 9], [3, 6, 9])
    assert grown.settings == short.settings | {"epochs": 3, "before": [{"epochs": 2}]}
    again(tmp_path, *overrides, "epochs=4")
    assert load(tmp_path).settings["before"] == [{"epochs": 2}, {"epochs": 3}]


def test_no_flipped_byte_of_a_checkpoint_passes(tmp_path: Path) -> None:
    trained(tmp_path, *small(**{"model.width": 1}))
    (tmp_path / "checkpoint.previous.pt").unlink()
    file = tmp_path / "checkpoint.pt"
    content = file.read_bytes()
    draw = random.Random(0)
    ends = [0, len(content) - checkpoint.DIGEST, len(content) - 1]
    for at in [*ends, *(draw.randrange(len(content)) for _ in range(200))]:
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
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


def test_a_loss_that_was_nan_before_a_run_resumed_does_not_keep_it_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NanOnce, "was_nan", False)
    custom = {"loss": "custom", "loss._target_": "tests.helpers.faulty_losses.NanOnce"}
    overrides = small(max_steps=12, checkpoint_every=5, **custom)
    killed_at(7, monkeypatch, tmp_path, *overrides, "on_nonfinite=continue")
    trace = trained(tmp_path, *overrides, "on_nonfinite=stop")
    assert trace.losses.isfinite().tolist() == [step != 3 for step in range(1, 13)]
    saved = checkpoint.load(tmp_path)
    assert saved is not None and len(saved["recorder"]["losses"]) == 12
