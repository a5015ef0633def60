import math
import re

import pytest

from tests.helpers.runs import nudged, run
from xent.recording.trace import Trace
from xent.report.summary import exit_code, summarise
from xent.verdict.judging import judge
from xent.verdict.matching import pairs

FLOOR = nudged(1e-14, 1e-14)


def answered(*runs: Trace, by: str = "loss", reference: str | None = None) -> str:
    summary = summarise(judge(pairs(list(runs), by, reference)), by)
    assert exit_code(summary) == {"Yes": 0, "No": 1, "Not known": 2}[re.split("[:,]", summary["answer"])[0]]
    return str(summary["answer"])


def test_yes_says_which_train_the_same_in_what_and_over_how_much() -> None:
    found = answered(*FLOOR, run("scratch", 1e-14), run("fused", 1e-14))
    assert found == "Yes: scratch and fused train as torch does, in float64, over one seed."
    of_two = [*FLOOR, *nudged(1e-14, seed=1), run("scratch", 1e-14), run("scratch", 1e-14, seed=1)]
    assert answered(*of_two) == "Yes: scratch trains as torch does, in float64, over two seeds."
    coarse = [*nudged(1e-7, precision="float32"), run("scratch", 1e-7, precision="float32")]
    both = answered(*FLOOR, run("scratch", 1e-14), *coarse)
    assert both == "Yes: scratch trains as torch does, in float64 and float32, over one seed."


def test_no_says_which_differs_from_when_and_by_how_much() -> None:
    wrong = answered(*FLOOR, run("scratch", 1e-3))
    assert wrong == "No: scratch differs from step 1 on, by 11.0 decades above rounding."
    assert answered(*FLOOR, run("scratch", 1e-14), run("fused", 1e-3)).startswith("No, one of two: fused differs")
    other = answered(*FLOOR, run("scratch", 1e-14, loss_shift=1e-3))
    assert other.startswith("No: scratch trains as torch does but reports other values, from step 1 on, by 11.0")
    coarse = [*nudged(1e-7, 1e-7, precision="float32"), run("scratch", 1e-7, precision="float32")]
    of_two = answered(*coarse, *FLOOR, run("scratch", 1e-3))
    assert of_two.startswith("No, one of two: scratch, float64 differs from step 1 on, by 11.0")
    many = answered(*FLOOR, *(run(f"wrong {i}", 1e-3) for i in range(5)))
    assert many.startswith("No, five of five: wrong 0 ") and many.endswith("; and two more.")


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        (
            [run("torch"), run("scratch", 1e-14)],
            "there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed",
        ),
        (
            [*nudged(1e-14, steps=64), run("scratch", 1e-14, steps=64)],
            "no loss fell, which tells nothing, train longer or with another learning rate",
        ),
    ],
)
def test_what_was_not_proved_is_not_known(runs: list[Trace], why: str) -> None:
    if "fell" in why:
        for trace in runs:
            trace.losses = trace.losses * 0 + math.pi
            trace.losses[2] += 1e-3 * trace.settings["nudge"]
            trace.losses[1] += 1e-3 * (trace.settings["loss"] == "scratch")
    assert answered(*runs) == f"Not known: {why}."


def test_another_setting_than_the_loss_is_named() -> None:
    runs = [run("torch", shift, nudge=n, **{"machine.threads": 1}) for n, shift in enumerate((0.0, 1e-14))]
    found = answered(*runs, run("torch", 1e-14, **{"machine.threads": 2}), by="machine.threads", reference="1")
    assert found == "Yes: machine.threads=2 trains as 1 does, in float64, over one seed."
