"""A comparison for people and programs: tables in the terminal, a page, figures, a picture, TensorBoard events."""

import json
import os
from math import isfinite
from pathlib import Path
from typing import Any

from xent.training.trace import Trace
from xent.verdict import events
from xent.verdict.grouping import grouped
from xent.verdict.judging import Judgement, Verdict
from xent.verdict.picture import draw
from xent.verdict.tables import as_markdown, gap_rows, print_table, verdict_rows

ADVICE = {
    Verdict.NO_FLOOR: "no floor to judge by: train the reference with nudge=0,1,2 too",
    Verdict.NOTHING_LEARNED: "nothing learned: neither loss fell, which tells nothing; train longer or with another "
    "optimizer.lr",
}
LEGEND = """
The gap is the distance of a run's logits of 256 test images from the reference's, over the length of those: a geometric
mean over seeds. The floor is the gap that a nudge of the reference's first weights by one ULP makes.

- decades above floor: powers of ten between gap and floor, the mean over steps and seeds
- nudged runs reach: the most decades that one nudge of the reference is above the other nudges
- left floor at step: the first at which the gap of a different run is above all of those
- losses differ by: the most that any one training loss differs from the reference's, of all steps and runs
"""


def report(judgements: list[Judgement], folder: Path, by: str = "loss") -> None:
    """Print the verdicts; write `verdict.json`, `report.md`, `curves.png` and TensorBoard events into `folder`."""
    groups = grouped(judgements, by)
    tables = {"Verdict": verdict_rows(groups), "Gap to the reference, after so many steps": gap_rows(groups)}
    page = "\n".join(as_markdown(title, rows) for title, rows in tables.items()) + LEGEND
    figures = {name: _figures(each) for group in groups for name, each in group.judgements.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps(figures, indent=2))
    (folder / "report.md").write_text(page)
    picture = draw(groups)
    picture.savefig(folder / "curves.png", dpi=150)
    events.write(folder, groups, by, page, picture)
    for title, rows in tables.items():
        print_table(title, rows)
    for verdict, advice in ADVICE.items():
        if any(each.verdict is verdict for each in judgements):
            print(advice)
    print(os.path.relpath(folder))


def _figures(judgement: Judgement) -> dict[str, Any]:
    """A judgement as JSON, which has no NaN and no infinity: null stands for them."""

    def number(value: float | None) -> float | None:
        return value if value is not None and isfinite(value) else None

    def run(trace: Trace) -> dict[str, Any]:
        loss, accuracy = trace.tests[trace.step]
        return {"run": trace.name, "test_loss": number(loss), "test_accuracy": accuracy, "settings": trace.settings}

    return {
        "verdict": judgement.verdict,
        "margin": number(judgement.margin),
        "noise": number(judgement.noise),
        "left_floor": judgement.left_floor,
        "largest_loss_difference": number(judgement.largest_loss_difference),
        "gap": {step: number(value) for step, value in judgement.gap.items()},
        "floor": judgement.floor,
        "floor_range": judgement.floor_range,
        "runs": [{"candidate": run(pair.candidate), "reference": run(pair.reference)} for pair in judgement.pairs],
    }
