import json
import math
import os
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from tests.helpers.runs import nudged, run
from xent.compare import compare, write_report
from xent.recording.trace import Trace, save
from xent.report.addresses import addresses
from xent.report.page import page
from xent.report.picture import draw
from xent.report.summary import Summary, exit_code, summarise
from xent.report.tensorboard import DECADES, list_newest_first
from xent.verdict.judging import judge
from xent.verdict.matching import pairs

FLOOR = nudged(1e-14, 1e-14)
RUNS = [*FLOOR, run("scratch", 0.25), run("article", 1e-14)]
COARSE = nudged(1e-6, 1e-6, precision="float32")
CHARTS = ["training loss", DECADES]


def summary_of(*runs: Trace, by: str = "loss", reference: str | None = None) -> Summary:
    return summarise(judge(pairs(list(runs), by, reference)), by, command="python what was typed")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a report that replaced another one, beside a run; and what was printed."""
    folder = tmp_path_factory.mktemp("sweep") / "comparison"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "events.out.tfevents.1").write_text("a run's")
    write_report(summary_of(run("torch"), run("scratch", 0.5)), folder)
    with redirect_stdout(StringIO()) as output:
        write_report(summary_of(*RUNS), folder)
    return folder, output.getvalue()


def test_the_tables_name_every_candidate_and_its_figures(report: tuple[Path, str]) -> None:
    folder, printed = report
    text = (folder / "report.md").read_text()
    answer = "No, one of two: scratch differs by 13.4 decades above rounding, beyond the limit from step 1 on."
    for shown in ("scratch", "article", "different", "same within rounding", "+13.40", answer):
        assert shown in printed and shown in text
    assert "| torch, the reference |  |  |  |  | 0.5000 | 75.00% |" in text
    assert "| scratch | 0e+00 | 2e-01 | 2e-01 | 2e-01 |" in text
    assert "| floor: torch nudged |  | 1e-14 | 1e-14 | 1e-14 |" in text
    assert "```console\npython what was typed\n```" in text and "](curves.png)" in text
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_figures_are_there_for_programs(report: tuple[Path, str], tmp_path: Path) -> None:
    whole = json.loads((report[0] / "verdict.json").read_text())
    assert whole == json.loads(json.dumps(summary_of(*RUNS), allow_nan=False)), "all that is shown is there"
    assert (whole["schema version"], whole["compared"], whole["settings"]["precision"]) == (3, "loss", "float64")
    reference, scratch, article = whole["references"]["torch"], *whole["candidates"].values()
    assert reference["settings"] == {"loss": "torch", "loss._target_": "their.torch"}
    assert reference["runs"] == ["torch,nudge=0"]
    assert (scratch["verdict"], scratch["left floor at step"], scratch["runs"]) == ("different", 1, ["scratch"])
    assert (scratch["gap"]["2"], scratch["losses"]["4"]) == (pytest.approx(0.25), pytest.approx(1.25))
    assert (scratch["test loss"], scratch["test accuracy"]) == (0.5, 0.75)
    assert article["decades above floor"] == pytest.approx(0, abs=0.05)
    write_report(summary_of(run("torch"), run("scratch", math.nan)), tmp_path)
    figures = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=pytest.fail)["candidates"]["scratch"]
    assert figures["losses differ by"] is None, "as there is no NaN in JSON"


def test_tensorboard_draws_losses_and_gaps_over_each_other_and_shows_the_newer_report(report: tuple[Path, str]) -> None:
    folder, _ = report
    title = f"{folder.parent.name}, against torch | different: scratch; same within rounding: article"
    loss, gap = (f"{title}/{chart}" for chart in CHARTS)

    def scalars(run: str) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(folder / "curves" / run)).Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    losses = {step: 2 - (step - 1) / 3 for step in (1, 2, 3, 4)}
    assert scalars("torch") == {loss: [(step, pytest.approx(y, rel=1e-5)) for step, y in losses.items()]}
    for line, decades in {"floor": 0.0, "nudged runs": 0.0, "limit": 2.0}.items():
        assert scalars(line) == {gap: [(step, decades) for step in (1, 2, 4)]}
    assert scalars("scratch") == {
        loss: [(step, pytest.approx(1.25 * y, rel=1e-5)) for step, y in losses.items()],
        gap: [(step, pytest.approx(math.log10(0.25) + 14, abs=0.1)) for step in (1, 2, 4)],  # none at a gap of 0
    }
    events = EventAccumulator(str(folder)).Reload()
    (layout,) = events.Tensors("custom_scalars__config__")
    (section,) = Layout.FromString(layout.tensor_proto.string_val[0]).category
    assert (section.title, [chart.title for chart in section.chart]) == (title, CHARTS)
    tags = [tag.replace("\\", "") for chart in section.chart for tag in chart.multiline.tag]
    assert tags == [f"{loss}$", f"{gap}$"]
    assert events.Tags()["images"] == ["curves"]
    (text,) = events.Tensors("verdict/text_summary")
    assert b"same within rounding" in text.tensor_proto.string_val[0]
    assert b"curves.png" not in text.tensor_proto.string_val[0], "which is not shown there"
    assert len([*folder.glob("events.*")]) == len([*folder.glob("curves/scratch/events.*")]) == 1
    assert (folder / "run" / "events.out.tfevents.1").read_text() == "a run's"


def test_tensorboard_lists_the_newest_comparison_first(tmp_path: Path) -> None:
    """Whatever their names, and those that are gone no more."""
    for age, folder in enumerate(("a/comparison", "c_comparison", "b/comparison", "gone/comparison")):
        write_report(summary_of(*RUNS), tmp_path / folder)
        os.utime(tmp_path / folder / "verdict.json", (1e9 + age, 1e9 + age))
    list_newest_first(tmp_path)
    shutil.rmtree(tmp_path / "gone")
    list_newest_first(tmp_path)
    (layout,) = EventAccumulator(str(tmp_path)).Reload().Tensors("custom_scalars__config__")
    titles = [category.title for category in Layout.FromString(layout.tensor_proto.string_val[0]).category]
    assert [title.partition(",")[0] for title in titles] == ["b", "c_comparison", "a"]


def test_runs_without_a_floor_are_shown() -> None:
    summary = summary_of(run("torch"), run("scratch"))
    assert "| bitwise identical |" in page(summary) and "no floor" not in page(summary)
    assert draw(summary).axes[1].get_yscale() == "linear", "zero has no logarithm"
    summary = summary_of(run("torch"), run("scratch", 0.1))
    assert draw(summary).axes[1].get_yscale() == "log"
    (figures,) = summary["candidates"].values()
    assert (figures["verdict"], figures["limit"], summary["references"]["torch"]["floor"]) == ("no floor", 2.0, {})
    assert figures["decades above floor"] is figures["losses above floor"] is None


def test_the_tests_of_several_seeds_are_their_mean() -> None:
    runs = [trace for seed in (0, 1) for trace in (*nudged(1e-14, seed=seed), run("scratch", 1e-14, seed=seed))]
    runs[-1].tests[4] = (0.7, 0.25)
    assert "| 0.6000 | 50.00% |" in page(summary_of(*runs))
    for trace in runs:
        trace.tests = {}
    assert "test loss" not in page(summary_of(*runs)), "no column where nothing was evaluated"


def test_a_long_curve_is_thinned_to_what_tensorboard_shows() -> None:
    losses = summary_of(run("torch", steps=2500), run("scratch", steps=2500))["references"]["torch"]["losses"]
    assert list(losses) == list(range(3, 2501, 3)) and losses[2499] == pytest.approx(1 + 1 / 2499, rel=1e-5)


def test_candidates_are_named_by_all_that_differs_and_a_reference_that_matches_none_by_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [*COARSE, run("scratch", precision="float32"), *FLOOR, run("scratch")]
    assert list(summary_of(*both)["candidates"]) == ["scratch, float32", "scratch, float64"]
    custom = [run("custom", **{"loss._target_": f"their.{name}"}) for name in "AB"]
    assert list(summary_of(*FLOOR, *custom)["candidates"]) == ["A", "B"]
    for name, trace in {"a": run("torch"), "b": run("scratch"), "c": run("torch", seed=1)}.items():
        (tmp_path / name).mkdir()
        save(trace, tmp_path / name)
    compare([tmp_path])
    assert capsys.readouterr().out.endswith("the reference of no other run, so not used: c\n")


def test_remarks_are_printed_too_and_say_what_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = run("scratch", 1e-3, precision="float32")
    write_report(summary_of(*COARSE, coarse, *FLOOR, run("scratch", 1e-14)), tmp_path)
    for shown in (capsys.readouterr().out, (tmp_path / "report.md").read_text()):
        assert "scratch, float32 rounds about 1,000 times as coarsely as the reference" in shown.splitlines()

    def remarks(floor: float, shift: float, **settings: Any) -> list[str]:
        return summary_of(*nudged(floor, floor, **settings), run("scratch", shift, **settings))["remarks"]

    tells = "train in float32 and in float64 to tell, in train.py by precision=float32,float64"
    other_precision = [f"scratch: a mistake, or coarse rounding? {tells}"]
    assert remarks(1e-7, 1e-4, precision="float32") == remarks(1e-15, 1e-7) == other_precision
    assert remarks(1e-7, 1e-4, precision="float32", loss_shift=1e-7) == other_precision
    assert remarks(1e-15, 1e-3) == [], "which rounding is not"
    assert remarks(1e-12, 1e-7, loss_precision="float32") == [], "it is judged so already"
    broken = run("scratch", 1e-6, precision="float32")
    broken.losses[2:] = torch.nan
    assert summary_of(*COARSE, broken)["remarks"] == ["the loss of scratch is nan at step 3"]
    with_casts = run("scratch", 1e-14)
    with_casts.casts = {"float32", "bfloat16"}
    seen_through = "scratch casts to bfloat16 and float32, which was seen through: it computed in float64 all the way"
    assert summary_of(*FLOOR, with_casts)["remarks"] == [seen_through]


def answer_of(*runs: Trace, by: str = "loss", reference: str | None = None) -> str:
    """The answer of a comparison, which its exit code agrees with."""
    summary = summary_of(*runs, by=by, reference=reference)
    assert exit_code(summary) == {"Yes": 0, "No": 1, "Not known": 2}[re.split("[:,]", summary["answer"])[0]]
    return str(summary["answer"])


SAME, SAME_IN_FLOAT32 = run("scratch", 1e-14), run("scratch", 1e-6, precision="float32")
FROM = "by 11.0 decades above rounding, beyond the limit from step 1 on"  # as 1e-3 is


def test_yes_says_which_train_the_same_in_what_and_over_how_much() -> None:
    answer = answer_of(*FLOOR, SAME, run("fused", 1e-14))
    assert answer == "Yes: scratch and fused train as torch does, in float64, over one seed."
    answer = answer_of(*FLOOR, SAME, *nudged(1e-14, seed=1), run("scratch", 1e-14, seed=1))
    assert answer == "Yes: scratch trains as torch does, in float64, over two seeds."
    answer = answer_of(*FLOOR, SAME, *COARSE, SAME_IN_FLOAT32)
    assert answer == "Yes: scratch trains as torch does, in float64 and float32, over one seed."
    threads = [run("torch", 1e-14 * (n > 0), nudge=n % 2, **{"machine.threads": 1 + n // 2}) for n in range(3)]
    answer = answer_of(*threads, by="machine.threads", reference="1")
    assert answer == "Yes: machine.threads=2 trains as 1 does, in float64, over one seed."


def test_no_says_which_differs_from_when_and_by_how_much() -> None:
    assert answer_of(*FLOOR, run("scratch", 1e-3)) == f"No: scratch differs {FROM}."
    assert answer_of(*FLOOR, SAME, run("fused", 1e-3)) == f"No, one of two: fused differs {FROM}."
    answer = answer_of(*FLOOR, run("scratch", 1e-14, loss_shift=1e-3))
    assert answer == f"No: scratch trains as torch does but reports values that differ {FROM}."
    answer = answer_of(*COARSE, SAME_IN_FLOAT32, *FLOOR, run("scratch", 1e-3))
    assert answer == f"No, one of two: scratch, float64 differs {FROM}."
    wrong, three = [run(f"wrong {i}", 1e-3) for i in range(5)], "; ".join(f"wrong {i} differs {FROM}" for i in range(3))
    assert answer_of(*FLOOR, *wrong[:3]) == f"No, three of three: {three}."
    assert answer_of(*FLOOR, *wrong) == f"No, five of five: {three}; and two more."


def test_another_end_and_another_loss_at_large_logits_are_said() -> None:
    references = [run("torch", steps=9), run("torch", 1e-14, steps=11, nudge=1)]
    answer = "No: scratch trains as torch does but ends after 12 steps, not after 9 and 11."
    assert summary_of(*references, run("scratch", 1e-14, steps=12))["answer"] == answer
    between = summary_of(*references, run("scratch", 1e-14, steps=10))
    assert between["answer"].startswith("Yes") and exit_code(between) == 0
    assert "scratch ended after 10 steps, its reference after 9 and 11" in between["remarks"]
    runs = [*FLOOR, run("scratch", 1e-14)]
    for trace, value in zip(runs, (450.0, 450.0, 450.0, math.inf)):
        trace.trials = {"logits of 1000": (value, 0.25)}
    summary = summary_of(*runs)
    answer = "No: scratch trains as torch does, but for logits of 1000 its loss is inf, not 450."
    assert (summary["answer"], exit_code(summary)) == (answer, 1)


def test_tensorboard_shows_the_newest_comparison_alone_if_it_would_tick_none_of_all(tmp_path: Path) -> None:
    def compared(sweep: str, runs: int) -> tuple[str, ...]:
        for number in range(runs):
            (tmp_path / sweep / "comparison" / "curves" / str(number)).mkdir(parents=True)
            (tmp_path / sweep / "comparison" / "curves" / str(number) / "events.out.tfevents.1").touch()
        (tmp_path / sweep / "comparison" / "verdict.json").touch()
        os.utime(tmp_path / sweep / "comparison" / "verdict.json", (age := len(list(tmp_path.iterdir())), age))
        curves, verdicts, *hint = addresses(tmp_path, "6006")
        assert bool(hint) == (sweep == "th+ree")
        assert verdicts == "verdicts: http://127.0.0.1:6006/#text&regexInput=comparison$"
        return tuple(curves.split("&"))

    page = "curves: http://127.0.0.1:6006/#custom_scalars", "_smoothingWeight=0"
    assert addresses(tmp_path / "none", "6006")[0].endswith("regexInput=comparison")
    assert compared("one", 18) == compared("two", 22) == (*page, "regexInput=comparison")
    assert compared("th+ree", 1) == (*page, r"regexInput=th%5C%2Bree/comparison")


def test_custom_losses_of_one_name_keep_their_modules() -> None:
    def custom(*targets: str) -> list[str]:
        runs = [run("custom", 1e-14, **{"loss._target_": target}) for target in targets]
        return list(summary_of(*FLOOR, *runs)["candidates"])

    assert custom("a.Loss", "b.Other") == ["Loss", "Other"]
    assert custom("a.Loss", "b.Loss", "b.Other") == ["a.Loss", "b.Loss", "Other"]


def test_what_was_not_proved_is_not_known() -> None:
    advice = "there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed "
    advice += "(or ask python -m xent.compare --exact whether runs are equal to the last bit, which needs no floor)"
    assert answer_of(run("torch"), SAME) == f"Not known: {advice}."
    runs = [*nudged(1e-14, steps=64), run("scratch", 1e-14, steps=64)]
    for number, trace in enumerate(runs):  # each differs
        trace.losses = torch.full((64,), 3.0).double()
        trace.probes = dict.fromkeys(trace.probes, trace.first_outputs * (1 + 1e-15 * number))
    advice = "outputs hardly changed, which tells nothing, train longer or with another learning rate"
    assert answer_of(*runs) == f"Not known: {advice}."
