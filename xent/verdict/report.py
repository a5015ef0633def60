"""A comparison for people and programs: tables in the terminal, a page, figures, a picture, TensorBoard events."""

import json
import os
from pathlib import Path

import torch

from xent.verdict import tensorboard
from xent.verdict.answer import answer
from xent.verdict.explanation import seeming_precision
from xent.verdict.figures import figures
from xent.verdict.grouping import Group, grouped
from xent.verdict.judging import Judgement, Verdict, has_own_loss_precision
from xent.verdict.page import page
from xent.verdict.picture import draw
from xent.verdict.tables import print_folded, print_table, verdict_rows

PICTURE = "curves.png"
LARGEST_ROUNDING = 10.0  # decades: that of float32 in float64 is nine


def report(judgements: list[Judgement], folder: Path, by: str = "loss", command: str = "") -> None:
    """Print the verdicts and the answer; write `verdict.json`, `report.md`, `curves.png` and TensorBoard events.

    Args:
        folder: where to write them.
        by: the setting that is compared.
        command: what was typed, for the page.
    """
    groups = grouped(judgements, by)
    said, remarked = answer(groups, by), remarks(groups, by)
    text = page(groups, by, said, remarked, command)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps(figures(groups, by, said), indent=1))
    (folder / "report.md").write_text(text)
    picture = draw(groups)
    picture.savefig(folder / PICTURE, dpi=150)
    tensorboard.write(folder, groups, by, text, picture)
    print_table(verdict_rows(groups))
    for line in (said, *remarked):
        print_folded(line)
    print(f"Report: {os.path.relpath(folder / 'report.md')}")
    print(f"Picture: {os.path.relpath(folder / PICTURE)}")
    ours = folder.resolve().is_relative_to(Path("outputs").resolve())
    print(f"In a browser: {'make tensorboard' if ours else f'tensorboard --logdir {os.path.relpath(folder.parent)}'}")


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
        nothing = "nothing learned: neither loss fell, which tells nothing; train longer or with another learning rate"
        lines.append(nothing)
    as_given = {name: each for name, each in named.items() if not has_own_loss_precision(each.settings)}
    different = [name for name, judgement in as_given.items() if judgement.verdict is Verdict.DIFFERENT]
    perhaps_coarse = [name for name in different if (named[name].outputs.margin or 0) < LARGEST_ROUNDING]
    precisions = {judgement.settings.get("precision") for judgement in as_given.values()}
    if perhaps_coarse and by != "precision" and precisions in ({"float32"}, {"float64"}):
        tells = "a mistake, or coarse rounding? the same with precision=float32,float64 tells"
        lines.append(f"{', '.join(perhaps_coarse)}: {tells}")
    lines += [
        f"{name} got {named[name].first_mismatch} than its reference: draw weights and batches from the seed"
        for name in different
        if named[name].first_mismatch
    ]
    return lines + [
        f"{name} seems to compute in float32: judge it with precision=float64 loss_precision=float32"
        for name in different
        if by == "loss" and _seems_float32(as_given[name])
    ]


def _seems_float32(judgement: Judgement) -> bool:
    """Whether the loss of a run in float64 is off by the rounding of float32 at the first step, before all else is."""
    off = next(iter(judgement.losses.gap.values()))
    return judgement.settings.get("precision") == "float64" and seeming_precision(off) is torch.float32
