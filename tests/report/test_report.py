import json
from math import log10
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from tests.helpers.runs import judged, nudged, run
from xent.compare import compare, write_report
from xent.recording.trace import Trace, save
from xent.report.page import page
from xent.report.summary import Summary, summarise
from xent.verdict.judging import judge
from xent.verdict.matching import pairs


def reported(folder: Path, *runs: Trace) -> Summary:
    summary = summarise(judge(pairs(list(runs))), command="python what was typed")
    write_report(summary, folder)
    return summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reported(tmp_path, *nudged(1e-14, 1e-14), run("scratch", shift=0.25), run("article", shift=1e-14))
    return tmp_path


def test_the_tables_name_every_candidate_and_its_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reported(folder, *nudged(1e-14, 1e-14), run("scratch", shift=0.25), run("article", shift=1e-14))
    printed = capsys.readouterr().out
    shown = (folder / "report.md").read_text()
    for text in (
        "scratch",
        "article",
        "different",
        "same within rounding",
        "+13.40",
        "No, one of two: scratch differs from step 1 on, by 13.4 decades above rounding.",
    ):
        assert text in printed
        assert text in shown
    assert "| torch, the reference |  |  |  |  | 0.5000 | 75.00% |" in shown
    assert "| scratch | 0e+00 | 2e-01 | 2e-01 | 2e-01 |" in shown
    assert "| floor: torch nudged |  | 1e-14 | 1e-14 | 1e-14 |" in shown
    assert "```console\npython what was typed\n```" in shown


def test_the_figures_are_there_for_programs(folder: Path) -> None:
    figures = judged(folder)
    assert figures["scratch"]["verdict"] == "different"
    assert figures["scratch"]["left floor at step"] == 1
    assert figures["scratch"]["gap"]["2"] == pytest.approx(0.25)
    assert figures["article"]["verdict"] == "same within rounding"
    assert figures["article"]["decades above floor"] == pytest.approx(0, abs=0.05)
    assert figures["scratch"]["runs"] == ["scratch"]
    assert (figures["scratch"]["test loss"], figures["scratch"]["test accuracy"]) == (0.5, 0.75)
    assert figures["scratch"]["losses"]["4"] == pytest.approx(1.25)
    whole = json.loads((folder / "verdict.json").read_text())
    assert (whole["schema version"], whole["compared"], whole["settings"]["precision"]) == (2, "loss", "float64")
    assert whole["references"]["torch"]["settings"] == {"loss": "torch", "loss._target_": "their.torch"}
    assert whole["references"]["torch"]["runs"] == ["torch,nudge=0"]
    assert whole["answer"].startswith("No, one of two: scratch differs")
    assert whole["command"] == "python what was typed"


def test_everything_is_shown_from_what_verdict_json_holds(tmp_path: Path) -> None:
    summary = reported(tmp_path, *nudged(1e-14, 1e-14), run("scratch", shift=0.25), run("nan", shift=float("nan")))
    assert json.loads((tmp_path / "verdict.json").read_text()) == json.loads(json.dumps(summary, allow_nan=False))
    assert (tmp_path / "report.md").read_text() == page(summary)


def test_the_tests_of_several_seeds_are_their_mean(tmp_path: Path) -> None:
    runs = [each for seed in (0, 1) for each in (*nudged(1e-14, seed=seed), run("scratch", 1e-14, seed=seed))]
    runs[-1].tests[4] = (0.7, 0.25)
    reported(tmp_path, *runs)
    assert (judged(tmp_path)["scratch"]["test loss"], judged(tmp_path)["scratch"]["test accuracy"]) == (0.6, 0.5)
    assert "| 0.6000 | 50.00% |" in (tmp_path / "report.md").read_text()


def test_runs_that_were_not_evaluated_have_no_columns_for_that(tmp_path: Path) -> None:
    runs = [*nudged(1e-14), run("scratch", 1e-14)]
    for trace in runs:
        trace.tests = {}
    reported(tmp_path, *runs)
    assert "test loss" not in (tmp_path / "report.md").read_text()


def test_the_picture_is_a_picture(folder: Path) -> None:
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_draws_losses_and_gaps_over_each_other_and_the_floor(folder: Path) -> None:
    def scalars(run: str) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(folder / "curves" / run)).Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    title = f"{folder.parent.name}, against torch | different: scratch; same within rounding: article"
    gap, loss = f"{title}/log10 of the gap to the reference, and the floor", f"{title}/training loss"
    assert scalars("scratch")[gap] == [(step, pytest.approx(log10(0.25))) for step in (1, 2, 4)], "no gap has no log"
    assert scalars("floor") == {gap: [(step, pytest.approx(-14, abs=0.1)) for step in (1, 2, 4)]}
    assert scalars("torch") == {loss: [(i, pytest.approx(2 - (i - 1) / 3, rel=1e-5)) for i in (1, 2, 3, 4)]}
    assert scalars("scratch")[loss] == [(i, pytest.approx(1.25 * (2 - (i - 1) / 3), rel=1e-5)) for i in (1, 2, 3, 4)]


def test_tensorboard_shows_picture_and_verdicts(folder: Path) -> None:
    events = EventAccumulator(str(folder)).Reload()
    assert events.Tags()["images"] == ["curves"]
    (text,) = events.Tensors("verdict/text_summary")
    assert b"same within rounding" in text.tensor_proto.string_val[0]
    assert b"curves.png" not in text.tensor_proto.string_val[0], "which is not shown there"
    assert "](curves.png)" in (folder / "report.md").read_text()
    (layout,) = events.Tensors("custom_scalars__config__")
    (section,) = Layout.FromString(layout.tensor_proto.string_val[0]).category
    sweep = folder.parent.name
    title = f"{sweep}, against torch | different: scratch; same within rounding: article"
    assert section.title == title
    assert [chart.title for chart in section.chart] == [
        "training loss",
        "log10 of the gap to the reference, and the floor",
    ]
    tags = [tag.replace("\\", "") for chart in section.chart for tag in chart.multiline.tag]
    assert tags == [f"{title}/{chart.title}$" for chart in section.chart]


def test_a_long_curve_is_thinned_to_what_tensorboard_shows(tmp_path: Path) -> None:
    reported(tmp_path, run("torch", steps=2500), run("scratch", steps=2500))
    title = f"{tmp_path.parent.name}, against torch | bitwise identical: scratch"
    curve = EventAccumulator(str(tmp_path / "curves" / "torch")).Reload().Scalars(f"{title}/training loss")
    assert [event.step for event in curve] == list(range(3, 2501, 3))


def test_candidates_are_named_by_all_that_differs(tmp_path: Path) -> None:
    by_precision = [[*nudged(1e-14, precision=p), run("scratch", precision=p)] for p in ("float32", "float64")]
    reported(tmp_path, *by_precision[0], *by_precision[1])
    assert list(judged(tmp_path)) == ["scratch, float32", "scratch, float64"]
    custom = [run("custom", **{"loss._target_": f"their.{name}"}) for name in "AB"]
    reported(tmp_path, *nudged(1e-14), *custom)
    assert list(judged(tmp_path)) == ["A", "B"]


def test_a_reference_run_that_matches_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, trace in {"a": run("torch"), "b": run("scratch"), "c": run("torch", seed=1)}.items():
        (tmp_path / name).mkdir()
        save(trace, tmp_path / name)
    compare([tmp_path])
    assert capsys.readouterr().out.endswith("the reference of no other run, so not used: c\n")


def test_runs_that_are_all_identical_can_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reported(tmp_path, run("torch"), run("scratch"))
    assert (tmp_path / "curves.png").exists()
    printed = capsys.readouterr().out
    assert "bitwise identical" in printed
    assert "no floor" not in printed


def test_coarse_rounding_is_said_with_how_coarse_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = [*nudged(1e-6, 1e-6, precision="float32"), run("scratch", 1e-3, precision="float32")]
    reported(tmp_path, *coarse, *nudged(1e-15, 1e-15), run("scratch", 1e-15))
    line = "scratch, float32 rounds about 1,000 times as coarsely as the reference"
    assert line in capsys.readouterr().out.splitlines()
    assert line in (tmp_path / "report.md").read_text().splitlines()


def test_of_one_precision_it_says_that_another_would_tell_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported(tmp_path, *nudged(1e-7, 1e-7, precision="float32"), run("scratch", 1e-4, precision="float32"))
    line = "scratch: a mistake, or coarse rounding? the same with precision=float32,float64 tells"
    assert line in capsys.readouterr().out.splitlines()


def test_a_loss_that_seems_to_compute_in_float32_is_told_how_that_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "scratch seems to compute in float32: judge it with precision=float64 loss_precision=float32"
    reported(tmp_path, *nudged(1e-15, 1e-15), run("scratch", 1e-7))
    assert line in capsys.readouterr().out.splitlines()
    for shift, precision in ((1e-10, "float64"), (1e-7, "float32")):
        floor = nudged(1e-15, 1e-15, precision=precision)
        reported(tmp_path, *floor, run("scratch", shift, precision=precision))
        assert "seems to compute" not in capsys.readouterr().out
    own = {"precision": "float64", "loss_precision": "float32"}
    reported(tmp_path, *nudged(1e-12, 1e-12, **own), run("scratch", 1e-7, **own))
    printed = capsys.readouterr().out
    assert "different" in printed
    assert "the same command" not in printed and "seems to compute" not in printed


def test_without_a_floor_it_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reported(tmp_path, run("torch"), run("scratch", shift=0.1))
    line = "Not known: there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed."
    assert line in capsys.readouterr().out.splitlines()
    figures = judged(tmp_path)["scratch"]
    assert (figures["verdict"], figures["decades above floor"], figures["limit"]) == ("no floor", None, 2.0)


def test_a_run_that_became_nan_is_null_for_programs(tmp_path: Path) -> None:
    reported(tmp_path, run("torch"), run("scratch", shift=float("nan")))
    text = (tmp_path / "verdict.json").read_text()
    (figures,) = json.loads(text, parse_constant=lambda name: pytest.fail(name))["candidates"].values()
    assert figures["losses differ by"] is None


def test_a_report_leaves_the_events_of_runs_below_it_alone(tmp_path: Path) -> None:
    events = tmp_path / "run" / "events.out.tfevents.1"
    events.parent.mkdir()
    events.write_text("a run's")
    reported(tmp_path, run("torch"), run("scratch", shift=0.1))
    assert events.read_text() == "a run's"


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    for shift in (0.25, 0.5):
        reported(tmp_path, run("torch"), run("scratch", shift=shift))
    (events,) = (tmp_path / "curves" / "scratch").glob("events*")
    title = f"{tmp_path.parent.name}, against torch | no floor: scratch"
    tag = f"{title}/log10 of the gap to the reference, and the floor"
    curve = EventAccumulator(str(events)).Reload().Scalars(tag)
    assert curve[-1].value == pytest.approx(log10(0.5))
