"""The picture of a comparison: losses over each other, and the gaps below them."""

from itertools import cycle

from matplotlib.figure import Figure

from xent.verdict.grouping import Group

LINES = ("-", "--", "-.", ":")
MARKERS = "os^vD*PX"


def draw(groups: list[Group]) -> Figure:
    """A column for each group: the loss curves over each other, the reference broad and light; under them the gaps.

    Of several seeds, the first one's losses are drawn; the floor is shaded from the least nudged run to the largest.
    """
    figure = Figure(figsize=(2 + 6 * len(groups), 8), layout="constrained")
    axes = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False)
    for (losses, gaps), group in zip(axes.T, groups):
        steps = range(1, len(group.reference.losses) + 1)
        losses.plot(steps, group.reference.losses, color="0.75", linewidth=4, label=group.name)
        for (name, judgement), style in zip(group.judgements.items(), cycle(LINES)):
            losses.plot(steps, judgement.pairs[0].candidate.losses, linewidth=0.8, linestyle=style, label=name)
        losses.set(title=group.name, ylabel="training loss", yscale="log")
        for (name, judgement), marker in zip(group.judgements.items(), cycle(MARKERS)):
            gap = {step: value for step, value in judgement.outputs.gap.items() if value > 0}  # a log axis has no zero
            gaps.plot(list(gap), list(gap.values()), marker=marker, markersize=4, label=f"{name}: {judgement.verdict}")
        (first, *_) = group.judgements.values()
        if first.outputs.floor_range:
            low, high = zip(*first.outputs.floor_range.values())
            gaps.fill_between(
                list(first.outputs.floor_range),
                low,
                high,
                color="0.85",
                hatch="///",
                edgecolor="0.6",
                label="floor: nudged",
            )
        gaps.set(xlabel="step", xscale="log", ylabel="relative gap of the probe logits")
        if any(value > 0 for judgement in group.judgements.values() for value in judgement.outputs.gap.values()):
            gaps.set_yscale("log")
        for each in (losses, gaps):
            each.grid(alpha=0.3)
            each.legend(fontsize="small" if len(group.judgements) < 8 else 4)
    return figure
