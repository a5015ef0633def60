import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_compare import run

from xent.compare import compare
from xent.report import report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    report(compare([run("torch"), run("scratch", shift=0.25), run("article")]), tmp_path)
    return tmp_path


def test_the_tables_name_every_run_and_its_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(compare([run("torch"), run("scratch", shift=0.25), run("article")]), folder)
    printed = capsys.readouterr().out
    page = (folder / "report.md").read_text()
    for text in ("torch", "scratch", "article", "the reference", "75.00%", "2.5e-01", "yes", "no"):
        assert text in printed
        assert text in page
    assert "| 2 | 0.0e+00 | 2.5e-01 |" in page or "| 2 | 2.5e-01 | 0.0e+00 |" in page


def test_the_figures_are_there_for_programs(folder: Path) -> None:
    figures = {entry["candidate"]["run"]: entry for entry in json.loads((folder / "verdict.json").read_text())}
    assert figures["scratch"]["gap"] == {"0": 0, "2": 0.25}
    assert figures["scratch"]["largest_loss_difference"] == 0.25
    assert figures["article"]["bitwise_identical"] is True
    assert figures["scratch"]["reference"]["test_accuracy"] == 0.75


def test_the_picture_is_a_picture(folder: Path) -> None:
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_reads_the_gap_curves(folder: Path) -> None:
    events = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("gap/scratch")] == [(0, 0), (2, 0.25)]


def test_runs_that_are_all_identical_can_be_drawn(tmp_path: Path) -> None:
    report(compare([run("torch"), run("scratch")]), tmp_path)
    assert (tmp_path / "curves.png").exists()


def test_a_run_that_became_nan_is_not_called_zero(tmp_path: Path) -> None:
    report(compare([run("torch"), run("scratch", shift=float("nan"))]), tmp_path)
    (figures,) = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert figures["gap"]["2"] is None


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    for shift in (0.25, 0.5):
        report(compare([run("torch"), run("scratch", shift=shift)]), tmp_path)
    (events,) = tmp_path.glob("events*")
    assert [event.value for event in EventAccumulator(str(events)).Reload().Scalars("gap/scratch")] == [0, 0.5]
