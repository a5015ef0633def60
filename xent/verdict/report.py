"""A comparison for people and programs: tables in the terminal, a page, figures, a picture, TensorBoard events."""

import json
import os
from math import isfinite
from pathlib import Path
from typing import Any

from xent.training.trace import Trace
from xent.verdict import tensorboard
from xent.verdict.explanation import seeming_precision
from xent.verdict.grouping import Group, grouped
from xent.verdict.judging import Judgement, Verdict, has_own_loss_precision
from xent.verdict.picture import draw
from xent.verdict.tables import as_markdown, gap_rows, print_table, verdict_rows

LEGEND = """
The gap is the distance of a run's logits of 256 test images from the reference's, over the length of those: a geometric
mean over seeds. The floor is the gap of the reference to itself, nudged: every first weight moved by one unit in the
last place, the images of every batch in another order.

- decades above floor: powers of ten between gap and floor, the mean over seeds and steps, or over steps that stand out
- nudged runs reach: the most decades that one nudge of the reference is above the other nudges
- left floor at step: the first at which the gap of a run that is not the same is above all of those
- losses above floor: the same for the training losses in place of the logits
- losses differ by: the most that any one training loss differs from the reference's, of all steps and runs
"""


def report(judgements: list[Judgement], folder: Path, by: str = "loss") -> None:
    """Print the verdicts; write `verdict.json`, `report.md`, `curves.png` and TensorBoard events into `folder`."""
    groups = grouped(judgements, by)
    tables = {"Verdict": verdict_rows(groups), "Gap to the reference, after so many steps": gap_rows(groups)}
    page = "\n".join(as_markdown(title, rows) for title, rows in tables.items())
    page += "".join(f"\n{line}\n" for line in remarks(groups, by)) + LEGEND
    figures = {name: _figures(each) for group in groups for name, each in group.judgements.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps(figures, indent=2))
    (folder / "report.md").write_text(page)
    picture = draw(groups)
    picture.savefig(folder / "curves.png", dpi=150)
    tensorboard.write(folder, groups, by, page, picture)
    for title, rows in tables.items():
        print_table(title, rows)
    for line in remarks(groups, by):
        print(line)
    print(os.path.relpath(folder))


def remarks(groups: list[Group], by: str) -> list[str]:
    """What the tables do not say: how coarse the rounding is, and what to train where a verdict needs more."""
    named = {name: judgement for group in groups for name, judgement in group.judgements.items()}
    lines = [
        f"{name} rounds about {float(f'{judgement.coarseness:.2g}'):,.0f} times as coarsely as the reference"
        for name, judgement in named.items()
        if judgement.verdict is Verdict.COARSER and judgement.coarseness >= 2
    ]
    verdicts = {judgement.verdict for judgement in named.values()}
    if Verdict.NO_FLOOR in verdicts:
        lines.append("no floor to judge by: train the reference with nudge=0,1,2 too, for every seed")
    if Verdict.NOTHING_LEARNED in verdicts:
        nothing = "nothing learned: neither loss fell, which tells nothing; train longer or with another optimizer.lr"
        lines.append(nothing)
    as_given = {name: each for name, each in named.items() if not has_own_loss_precision(each.settings)}
    different = [name for name, judgement in as_given.items() if judgement.verdict is Verdict.DIFFERENT]
    precisions = {judgement.settings.get("precision") for judgement in as_given.values()}
    if different and by != "precision" and precisions in ({"float32"}, {"float64"}):
        tells = "a mistake, or coarse rounding? the same command with precision=float32,float64 tells"
        lines.append(f"{', '.join(different)}: {tells}")
    return lines + [
        f"{name} seems to compute in {lower}: judge it with precision=float64 loss_precision={lower}"
        for name in different
        if by == "loss" and (lower := _seeming_precision(as_given[name]))
    ]


def _seeming_precision(judgement: Judgement) -> str | None:
    """That of a loss which was given float64, by its values at the first step, before which nothing differs."""
    lower = seeming_precision(next(iter(judgement.losses.gap.values())))
    return str(lower).removeprefix("torch.") if lower and judgement.settings.get("precision") == "float64" else None


def _figures(judgement: Judgement) -> dict[str, Any]:
    """A judgement as JSON, which has no NaN and no infinity: null stands for them."""

    def number(value: float | None) -> float | None:
        return value if value is not None and isfinite(value) else None

    def run(trace: Trace) -> dict[str, Any]:
        loss, accuracy = trace.tests[trace.step]
        return {"run": trace.name, "test_loss": number(loss), "test_accuracy": accuracy, "settings": trace.settings}

    return {
        "verdict": judgement.verdict,
        "margin": number(judgement.outputs.margin),
        "noise": number(judgement.outputs.noise),
        "loss_margin": number(judgement.losses.margin),
        "limit": judgement.limit,
        "left_floor": judgement.left_floor,
        "largest_loss_difference": number(judgement.largest_loss_difference),
        "gap": {step: number(value) for step, value in judgement.outputs.gap.items()},
        "floor": judgement.outputs.floor,
        "floor_range": judgement.outputs.floor_range,
        "runs": [{"candidate": run(pair.candidate), "reference": run(pair.reference)} for pair in judgement.pairs],
    }
