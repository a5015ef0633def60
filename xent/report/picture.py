"""The picture of a comparison: losses over each other, and the gaps below them."""

from itertools import cycle

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xent.report.summary import Summary, candidates_of

LINES = ("-", "--", "-.", ":")
MARKERS = "os^vD*PX"
FEW = 8  # candidates whose names fit inside the axes
HIGHEST = 1e3  # largest gap drawn, and largest loss relative to the reference's: beyond, all is as wrong


def draw(summary: Summary) -> Figure:
    """Draw a comparison: a column for each reference, with the loss curves above and the gaps below.

    The reference's curve is broad and light, and the others lie over it. With several seeds, the losses are those of
    the first. The noise band reaches from the smallest gap of a nudged run to the largest.
    """
    references = summary["references"]
    many = any(len(candidates_of(summary, name)) > FEW for name in references)
    figure = Figure(figsize=(2 + 6 * len(references) + 3 * many, 8), layout="constrained")
    axes = figure.subplots(2, len(references), sharex=True, sharey="row", squeeze=False)
    for (losses, gaps), (name, reference) in zip(axes.T, references.items()):
        candidates = candidates_of(summary, name)
        _draw_losses(losses, name, reference, candidates)
        _draw_gaps(gaps, reference, candidates)
        for panel in (losses, gaps):
            panel.grid(alpha=0.3)
            panel.legend(fontsize="small", **({"loc": "center left", "bbox_to_anchor": (1.02, 0.5)} if many else {}))
    return figure


def _draw_losses(axes: Axes, name: str, reference: Summary, candidates: dict[str, Summary]) -> None:
    label = f"{reference['short name']}, the reference"
    axes.plot(*_points(reference["losses"]), color="0.75", linewidth=4, label=label)
    highest = HIGHEST * max(abs(loss or 0.0) for loss in reference["losses"].values())
    for (short_name, candidate), colour, style in zip(candidates.items(), _colours(candidates), cycle(LINES)):
        steps, losses = _points(candidate["losses"])
        axes.plot(steps, [min(y, highest) for y in losses], color=colour, lw=0.8, ls=style, label=short_name)
    axes.set(title=name.partition(", ")[2] or name, ylabel="training loss")
    if all(loss is not None and loss > 0 for loss in reference["losses"].values()):
        axes.set_yscale("log")


def _draw_gaps(axes: Axes, reference: Summary, candidates: dict[str, Summary]) -> None:
    for (name, candidate), colour, marker in zip(candidates.items(), _colours(candidates), cycle(MARKERS)):
        drawn = {step: HIGHEST if gap is None else min(gap, HIGHEST) for step, gap in candidate["gap"].items()}
        steps, gaps = _points({step: gap or None for step, gap in drawn.items()})  # a log axis has no 0
        axes.plot(steps, gaps, color=colour, marker=marker, markersize=4, label=f"{name}: {candidate['verdict']}")
    if reference["floor range"]:
        steps, (low, high) = list(reference["floor range"]), zip(*reference["floor range"].values())
        label = "noise band: what rounding alone does"
        axes.fill_between(steps, low, high, color="0.85", hatch="///", edgecolor="0.6", label=label)
    axes.set(xlabel="step", xscale="log", ylabel="distance from the reference's outputs, relative")
    if any(gap != 0 for candidate in candidates.values() for gap in candidate["gap"].values()):
        axes.set_yscale("log")


def _points(curve: dict[int, float | None]) -> tuple[list[int], list[float]]:
    finite = {step: value for step, value in curve.items() if value is not None}
    return list(finite), list(finite.values())


def _colours(candidates: dict[str, Summary]) -> list[tuple[float, ...]]:
    colours = colormaps["tab10" if len(candidates) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return [colours[i % len(colours)] for i in range(len(candidates))]
