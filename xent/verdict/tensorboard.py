"""A comparison in TensorBoard: curves over each other, the verdict as a page, the picture."""

import re
from math import log10
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from xent.verdict.grouping import Group

PICTURE = re.compile(r"!\[.*?\]\(.*?\)\n\n")  # a file, which TensorBoard does not show in a text
MAX_POINTS = 1000  # that TensorBoard shows of a curve

Curves = dict[str, dict[str, dict[int, float]]]  # by their run and their tag, the values by their steps


def write(folder: Path, groups: list[Group], by: str, page: str, picture: Figure) -> None:
    """Page and picture as the run `comparison` beside the others, and inside it the curves, a run a candidate."""
    sweep = folder.resolve().parent.name
    for old in [*folder.glob("events.out.tfevents.*"), *folder.glob("curves/*/events.out.tfevents.*")]:
        old.unlink()  # TensorBoard would draw the curves of an earlier comparison with them
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("verdict", PICTURE.sub("", page), 0)
        writer.add_figure("curves", picture, close=False)
        writer.add_custom_scalars({_title(sweep, group): _charts(sweep, group) for group in groups})
    for run, by_tag in _curves(groups, by, sweep).items():
        with SummaryWriter(str(folder / "curves" / run.replace("/", "%2F"))) as writer:
            for tag, curve in by_tag.items():
                for step, value in curve.items():
                    writer.add_scalar(tag, value, step)


def _title(sweep: str, group: Group) -> str:
    """The sweep, the reference and the verdicts: the heading of the charts of a group, wherever they are shown."""
    found: dict[str, list[str]] = {}
    for name, judgement in zip(group.short, group.judgements.values()):
        found.setdefault(judgement.verdict, []).append(name)
    verdicts = "; ".join(f"{verdict}: {_some(names)}" for verdict, names in found.items())
    return f"{sweep}, against {group.name} | {verdicts}".replace("/", " ")  # at which TensorBoard cuts a tag


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} runs"


def _tags(sweep: str, group: Group) -> tuple[str, str]:
    """The tags of the losses and the gaps, under one heading, since a chart shows every curve of its tag."""
    title = _title(sweep, group)
    return f"{title}/training loss", f"{title}/log10 of the gap to the reference, and the floor"


def _curves(groups: list[Group], by: str, sweep: str) -> Curves:
    """In each group the losses of the first seed, and the gaps in decades."""
    curves: Curves = {}
    for group in groups:
        (first, *_) = group.judgements.values()
        losses = {str(group.reference.settings[by]): group.reference.losses}
        gaps = {"floor": first.outputs.floor} if first.outputs.floor else {}
        for name, judgement in zip(group.short, group.judgements.values()):
            losses[name], gaps[name] = judgement.pairs[0].candidate.losses, judgement.outputs.gap
        of_loss, of_gap = _tags(sweep, group)
        for name, each in losses.items():
            curves.setdefault(name, {})[of_loss] = _thinned(each)
        for name, gap in gaps.items():
            curves.setdefault(name, {})[of_gap] = {step: log10(value) for step, value in gap.items() if value > 0}
    return curves


def _thinned(losses: Tensor) -> dict[int, float]:
    """The losses by their steps, at most as many as TensorBoard shows of a curve."""
    every = -(-len(losses) // MAX_POINTS)
    return dict(zip(range(every, len(losses) + 1, every), losses[every - 1 :: every].tolist()))


def _charts(sweep: str, group: Group) -> dict[str, list[object]]:
    """Of the tab CUSTOM SCALARS, the two charts of a group."""
    return {tag.partition("/")[2]: ["Multiline", [f"{re.escape(tag)}$"]] for tag in _tags(sweep, group)}
