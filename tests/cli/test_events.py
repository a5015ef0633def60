"""The TensorBoard events of a run, as TensorBoard reads them."""

import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.helpers.commands import small, trained
from tests.helpers.runs import scalars
from tests.training.test_checkpoint import again, killed_at
from xent.recording.errors import Stopped
from xent.training import checkpoint

SETTINGS = small(max_steps=24, log_every=2, checkpoint_every=5)


@pytest.fixture(autouse=True)
def _a_second_for_each_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files in the order of their names, which have the second; no two commands share one."""
    clock = count(1_700_000_000)
    monkeypatch.setattr(
        "tensorboard.summary.writer.event_file_writer.time", SimpleNamespace(time=lambda: float(next(clock)))
    )


def reader_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})


def points(reader: EventAccumulator, tag: str = "train/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in reader.Reload().Scalars(tag)]


@pytest.mark.parametrize("changes", [[], ["log_every=3"], ["log_every=1", "checkpoint_every=1"]])
def test_a_reader_follows_a_run_that_resumes(
    changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, with other lengths of what is written; each step is shown once."""
    trained(tmp_path / "whole", *SETTINGS, *changes)
    killed_at(9, monkeypatch, tmp_path / "run", *SETTINGS)
    reader = reader_of(tmp_path / "run")
    assert [step for step, _ in points(reader)] == [2, 4, 6, 8]
    files = {file: file.read_bytes() for file in (tmp_path / "run").glob("events.*")}
    killed_at(17, monkeypatch, tmp_path / "run", *SETTINGS, *changes)
    assert len(points(reader)) > 4
    again(tmp_path / "run", *SETTINGS, *changes)
    followed = points(reader)
    steps = [step for step, _ in followed]
    assert steps == sorted({*steps}) and steps[-1] == 24
    assert followed == points(reader_of(tmp_path / "run"))
    whole = points(reader_of(tmp_path / "whole"))
    assert followed[2:] == [point for point in whole if point[0] > 5], "the step of the first checkpoint"
    if not changes:
        assert followed == whole and scalars(tmp_path / "run") == scalars(tmp_path / "whole")
    assert all(file.read_bytes().startswith(before) for file, before in files.items()), "nothing is cut off"
    assert len(list((tmp_path / "run").glob("events.*"))) == 3


def test_what_a_run_left_that_was_killed_before_its_first_checkpoint_of_a_step_is_superseded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "whole", *SETTINGS)
    killed_at(4, monkeypatch, tmp_path / "run", *SETTINGS, "log_every=1")
    reader = reader_of(tmp_path / "run")
    assert [step for step, _ in points(reader)] == [1, 2, 3]
    again(tmp_path / "run", *SETTINGS)
    assert points(reader) == points(reader_of(tmp_path / "whole"))


def test_the_curves_of_a_run_that_begins_anew_replace_those_that_are_there(tmp_path: Path) -> None:
    trained(tmp_path, *SETTINGS)
    for file in ("trace.npz", checkpoint.FILE, checkpoint.PREVIOUS):
        (tmp_path / file).unlink()
    trained(tmp_path, *SETTINGS, "log_every=5", "seed=1")
    assert [step for step, _ in points(reader_of(tmp_path))] == [5, 10, 15, 20, 24]


@pytest.mark.parametrize("loss", ["torch", "scratch"])
def test_every_tag_is_there_and_the_settings_once_though_the_run_resumed(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*SETTINGS, f"loss={loss}", "test_every=10", "optimizer.lr=0.05"]
    killed_at(9, monkeypatch, tmp_path, *overrides)
    again(tmp_path, *overrides)
    reader = reader_of(tmp_path).Reload()
    logged = list(range(2, 26, 2))
    train = ("loss", "accuracy", "gradient_norm", "learning_rate")
    parity = ("loss_error", "gradient_error", "reference_loss_error", "reference_gradient_error")
    expected = {f"train/{tag}": logged for tag in train} | {f"train_parity/{tag}": logged for tag in parity}
    expected |= {f"test/{tag}": [10, 20, 24] for tag in ("loss", "accuracy")}
    assert {tag: [point.step for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]} == expected
    (text,) = reader.Tensors("settings/text_summary")
    assert "| `optimizer.lr` | `0.05` |" in text.tensor_proto.string_val[0].decode()
    start, end = (
        HParamsPluginData.FromString(reader.SummaryMetadata(f"_hparams_/session_{moment}_info").plugin_data.content)
        for moment in ("start", "end")
    )
    assert start.session_start_info.hparams["optimizer.lr"].number_value == 0.05
    assert start.session_start_info.hparams["loss"].string_value == loss
    assert end.session_end_info.status  # success


@pytest.mark.parametrize("events_that_fit", [0, 1, 3, 20])
def test_a_full_disk_stops_the_run_with_a_line_and_no_traceback_of_a_thread(
    events_that_fit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = count(), LocalFileSystem._write
    errors: list[threading.ExceptHookArgs] = []

    def full(*arguments: Any) -> None:
        if next(written) >= events_that_fit:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(LocalFileSystem, "_write", full)
    monkeypatch.setattr(threading, "excepthook", errors.append)
    with pytest.raises(Stopped, match=r"cannot write .*tfevents \(No space left on device\): make room there"):
        trained(tmp_path / "run", *SETTINGS)
    assert not errors
    monkeypatch.undo()
    assert trained(tmp_path / "run", *SETTINGS).step == 24, "when there is room again"
