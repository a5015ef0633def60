import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.helpers.commands import small, succeeds, trained
from tests.helpers.runs import scalars
from tests.training.test_checkpoint import killed_at
from xent.recording.errors import Stopped
from xent.training import checkpoint

SETTINGS = small(max_steps=24, log_every=2, checkpoint_every=5)


@pytest.fixture(autouse=True)
def _a_second_for_each_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files in the order of their names, which have the second; no two commands share one."""
    clock = SimpleNamespace(time=map(float, count(1_700_000_000)).__next__)
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", clock)


def reader_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})


def curves(reader: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    """The points of every scalar that a reader sees now."""
    tags = reader.Reload().Tags()["scalars"]
    return {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in tags}


def steps_of(reader: EventAccumulator) -> list[int]:
    return [step for step, _ in curves(reader)["train/loss"]]


@pytest.mark.parametrize("changes", [[], ["log_every=3"], ["log_every=1", "checkpoint_every=1"]])
def test_a_reader_follows_a_resumed_run(changes: list[str], tmp_path: Path) -> None:
    """Twice, with other lengths of what is written; each step is shown once."""
    trained(tmp_path / "whole", *SETTINGS, *changes)
    killed_at(9, tmp_path / "run", *SETTINGS)
    reader = reader_of(tmp_path / "run")
    assert steps_of(reader) == [2, 4, 6, 8]
    files = {file: file.read_bytes() for file in (tmp_path / "run").glob("events.*")}
    killed_at(17, tmp_path / "run", *SETTINGS, *changes)
    assert len(steps_of(reader)) > 4
    trained(tmp_path / "run", *SETTINGS, *changes)
    steps = steps_of(reader)
    assert steps == sorted({*steps}) and steps[-1] == 24
    assert curves(reader) == curves(reader_of(tmp_path / "run"))
    followed, whole = (curves(each)["train/loss"] for each in (reader, reader_of(tmp_path / "whole")))
    assert followed[2:] == [point for point in whole if point[0] > 5], "the step of the first checkpoint"
    if not changes:
        assert followed == whole and scalars(tmp_path / "run") == scalars(tmp_path / "whole")
    assert all(file.read_bytes().startswith(before) for file, before in files.items()), "nothing is cut off"
    assert len(list((tmp_path / "run").glob("events.*"))) == 3


def test_a_run_that_begins_anew_replaces_its_old_curves(tmp_path: Path) -> None:
    """Of one that was killed before its first checkpoint of a step, or whose files were removed."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    trained(whole, *SETTINGS)
    killed_at(4, run, *SETTINGS, "log_every=1")
    reader = reader_of(run)
    assert steps_of(reader) == [1, 2, 3]
    trained(run, *SETTINGS)
    assert curves(reader) == curves(reader_of(whole))
    for file in ("trace.npz", checkpoint.FILE, checkpoint.PREVIOUS):
        (run / file).unlink()
    trained(run, *SETTINGS, "log_every=5", "seed=1")
    assert steps_of(reader_of(run)) == [5, 10, 15, 20, 24]


@pytest.mark.parametrize("loss", ["torch", "scratch"])
def test_a_resumed_run_has_every_tag_and_setting(loss: str, tmp_path: Path) -> None:
    overrides = [*SETTINGS, f"loss={loss}", "test_every=10", "optimizer.lr=0.05"]
    killed_at(9, tmp_path, *overrides)
    trained(tmp_path, *overrides)
    reader = reader_of(tmp_path)
    errors = ("loss_error", "gradient_error", "reference_loss_error", "reference_gradient_error")
    tags = {f"train/{tag}" for tag in ("loss", "accuracy", "gradient_norm", "learning_rate")}
    expected = {tag: [*range(2, 26, 2)] for tag in tags | {f"train_parity/{tag}" for tag in errors}}
    expected |= {"test/loss": [10, 20, 24], "test/accuracy": [10, 20, 24]}
    assert {tag: [step for step, _ in points] for tag, points in curves(reader).items()} == expected
    (text,) = reader.Tensors("settings/text_summary")
    assert "| `optimizer.lr` | `0.05` |" in text.tensor_proto.string_val[0].decode()
    infos = (reader.SummaryMetadata(f"_hparams_/session_{moment}_info") for moment in ("start", "end"))
    start, end = (HParamsPluginData.FromString(info.plugin_data.content) for info in infos)
    hparams = start.session_start_info.hparams
    assert (hparams["optimizer.lr"].number_value, hparams["loss"].string_value) == (0.05, loss)
    assert end.session_end_info.status  # success


@pytest.mark.parametrize("fit", [0, 1, 3, 20])
def test_a_full_disk_stops_a_run_without_a_traceback(fit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thread, after so many events that fit on it."""
    written, write, hook = count(), LocalFileSystem._write, Mock()

    def full(*arguments: object) -> None:
        if next(written) >= fit:
            raise OSError(28, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LocalFileSystem, "_write", full)
        patched.setattr(threading, "excepthook", hook)
        with pytest.raises(Stopped, match=r"cannot write .*tfevents \(No space left on device\): make room there"):
            trained(tmp_path / "run", *SETTINGS)
    assert not hook.called
    assert trained(tmp_path / "run", *SETTINGS).step == 24, "when there is room again"


def test_of_a_sweep_over_seeds_the_first_has_curves_and_a_nudged_run_has_none(tmp_path: Path) -> None:
    """TensorBoard ticks no run where there are more than forty."""
    succeeds(
        "-m",
        "seed=0,1",
        "nudge=0,1",
        *small(max_steps=2),
        "hydra.callbacks.compare.by=null",
        f"hydra.sweep.dir={tmp_path}",
    )
    drawn = [file.parent.name.split(",model")[0] for file in tmp_path.glob("seed*/events*")]
    assert (drawn, len(list(tmp_path.glob("*/trace.npz")))) == (["seed=0,nudge=0"], 4)
