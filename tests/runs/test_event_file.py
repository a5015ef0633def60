"""The event files of a run, and readers that follow them."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.commands import small, trained
from tests.helpers.runs import scalars
from tests.runs.test_checkpoint import again, killed_at
from xent.runs.event_file import RunLog


def points(reader: EventAccumulator, tag: str = "train/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in reader.Reload().Scalars(tag)]


@pytest.mark.parametrize("changes", [{}, {"log_every": 3}, {"log_every": 1}, {"checkpoint_every": 1}])
def test_a_reader_follows_a_run_that_goes_on(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, with other lengths of what is written."""
    settings = small(max_steps=24, log_every=2, checkpoint_every=5)
    trained(tmp_path / "whole", *settings, *(f"{key}={value}" for key, value in changes.items()))
    killed_at(9, monkeypatch, tmp_path / "run", *settings)
    reader = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0, "tensors": 0})
    assert [step for step, _ in points(reader)] == [2, 4, 6, 8, 10]
    files = {file: file.read_bytes() for file in (tmp_path / "run").glob("events.*")}
    changed = [*settings, *(f"{key}={value}" for key, value in changes.items())]
    killed_at(17, monkeypatch, tmp_path / "run", *changed)
    assert len(points(reader)) > 5
    again(tmp_path / "run", *changed)
    followed = points(reader)
    assert followed == points(EventAccumulator(str(tmp_path / "run")))
    whole = points(EventAccumulator(str(tmp_path / "whole")))
    assert followed[-3:] == whole[-3:]
    if "log_every" not in changes:
        assert followed == whole and scalars(tmp_path / "run") == scalars(tmp_path / "whole")
    assert all(file.read_bytes().startswith(before) for file, before in files.items()), "nothing is cut off"
    assert len(list((tmp_path / "run").glob("events.*"))) == 3


def test_what_a_run_left_that_was_killed_before_its_first_checkpoint_is_superseded(tmp_path: Path) -> None:
    with RunLog(tmp_path, {"seed": 1}) as first:
        first.write(1, {"train/loss": 9.0})
        first.write(7, {"train/loss": 8.0})
    reader = EventAccumulator(str(tmp_path))
    assert points(reader) == [(1, 9.0), (7, 8.0)]
    with RunLog(tmp_path, {"seed": 1}) as second:
        second.write(2, {"train/loss": 5.0})
    assert points(reader) == points(EventAccumulator(str(tmp_path))) == [(2, 5.0)]
    assert second.file.name == f"{first.file.name}.again0001"


def test_files_are_read_in_the_order_that_they_were_begun_in(tmp_path: Path) -> None:
    for number in range(12):
        with RunLog(tmp_path, {"seed": 1}, None) as log:
            log.write(number, {"train/loss": float(number)})
        if number == 5:
            sorted(tmp_path.iterdir())[2].unlink()  # by a person
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names[-1] == log.file.name
    (tmp_path / f"{names[0]}.bak").touch()  # by a person, too
    (tmp_path / "events.out.tfevents.9999999999.elsewhere.1").touch()
    with RunLog(tmp_path, {"seed": 1}) as last:
        last.write(11, {"train/loss": 11.0})
    assert sorted(tmp_path.iterdir())[-1] == last.file
    assert points(EventAccumulator(str(tmp_path))) == [(11, 11.0)]
