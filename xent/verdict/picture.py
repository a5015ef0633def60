"""The picture of a comparison: losses over each other, and the gaps below them."""

from itertools import cycle

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xent.verdict.grouping import Group
from xent.verdict.judging import Judgement

LINES = ("-", "--", "-.", ":")
MARKERS = "os^vD*PX"
FEW = 8  # candidates whose names have room inside the axes
HIGHEST = 1e3  # gap that is drawn, and loss over the reference's largest: what is further away is as wrong


def draw(groups: list[Group]) -> Figure:
    """A column for each group: the loss curves over each other, the reference broad and light; under them the gaps.

    Of several seeds, the first one's losses are drawn; the noise band is from the least nudged run to the largest.
    """
    many = any(len(group.judgements) > FEW for group in groups)
    figure = Figure(figsize=(2 + 6 * len(groups) + 3 * many, 8), layout="constrained")
    axes = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False)
    for (losses, gaps), group in zip(axes.T, groups):
        _draw_losses(losses, group)
        _draw_gaps(gaps, group)
        for each in (losses, gaps):
            each.grid(alpha=0.3)
    for row in axes:
        if many:
            row[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
        else:
            for each in row:
                each.legend(fontsize="medium")
    return figure


def _draw_losses(axes: Axes, group: Group) -> None:
    reference, *precision = group.name.split(", ")
    steps = range(1, len(group.reference.losses) + 1)
    highest = HIGHEST * float(group.reference.losses.abs().nan_to_num().max())
    axes.plot(steps, group.reference.losses, color="0.75", linewidth=4, label=f"{reference}, the reference")
    for (name, judgement), colour, style in zip(_shown(group), _colours(group), cycle(LINES)):
        curve = judgement.pairs[0].candidate.losses.clamp(max=highest)
        axes.plot(steps, curve, color=colour, linewidth=0.8, linestyle=style, label=name)
    axes.set(title=", ".join(precision) or group.name, ylabel="training loss")
    if bool((group.reference.losses > 0).all()):
        axes.set_yscale("log")


def _draw_gaps(axes: Axes, group: Group) -> None:
    for (name, judgement), colour, marker in zip(_shown(group), _colours(group), cycle(MARKERS)):
        gap = {step: min(value, HIGHEST) for step, value in judgement.outputs.gap.items() if value > 0}  # a log axis
        label = f"{name}: {judgement.verdict}"
        axes.plot(list(gap), list(gap.values()), color=colour, marker=marker, markersize=4, label=label)
    (first, *_) = group.judgements.values()
    if first.outputs.floor_range:
        low, high = zip(*first.outputs.floor_range.values())
        steps = list(first.outputs.floor_range)
        label = "noise band: what rounding alone does"
        axes.fill_between(steps, low, high, color="0.85", hatch="///", edgecolor="0.6", label=label)
    axes.set(xlabel="step", xscale="log", ylabel="distance from the reference's outputs, relative")
    if any(value > 0 for judgement in group.judgements.values() for value in judgement.outputs.gap.values()):
        axes.set_yscale("log")


def _shown(group: Group) -> list[tuple[str, Judgement]]:
    return list(zip(group.short, group.judgements.values()))


def _colours(group: Group) -> list[tuple[float, ...]]:
    colours = colormaps["tab10" if len(group.judgements) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return [colours[i % len(colours)] for i in range(len(group.judgements))]
