"""The pictures of a comparison: losses over each other with the gaps below them, and where a candidate parts."""

from itertools import cycle

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xent.recording.capture import KINDS
from xent.report.summary import Summary, candidates_of

LINES = ("-", "--", "-.", ":")
MARKERS = "os^vD*PX"
FEW = 8  # candidates whose names fit inside the axes
ROWS = 6  # of the picture of places
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


def draw_where(summary: Summary) -> Figure | None:
    """Draw every tensor of the step in which a candidate leaves the floor, in order, above its own floor.

    A row for each candidate, of at most ROWS: of those that leave it, if any does. None if no step was captured.
    """
    captured = {name: part["where"] for name, part in summary["candidates"].items() if part["where"]}
    left = {name: where for name, where in captured.items() if where["first"]}
    shown = dict(list((left or captured).items())[:ROWS])
    if not shown:
        return None
    figure = Figure(figsize=(9, 1 + 3 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), squeeze=False)[:, 0]
    for axes, (name, where) in zip(rows, shown.items()):
        names = [tensor["name"] for tensor in where["tensors"]]
        decades = [tensor["decades"] for tensor in where["tensors"]]
        for kind, colour in zip(KINDS, colormaps["tab10"].colors):  # type: ignore[attr-defined]
            if of_kind := [i for i, tensor in enumerate(where["tensors"]) if tensor["kind"] == kind]:
                label = kind.removesuffix(" of")
                axes.plot(of_kind, [decades[i] for i in of_kind], "o", markersize=4, color=colour, label=label)
        axes.axhline(where["limit"], color="0.4", linewidth=0.8, linestyle="--", label="limit of rounding")
        if where["first"]:
            first = names.index(where["first"])
            axes.plot(first, decades[first], "o", markersize=12, fillstyle="none", color="black")
            axes.axvline(first, color="black", linewidth=0.6)
        begins = where["begins at"] or f"step {where['step']}"
        axes.set(title=f"{name}: {begins}", ylabel="decades above its floor")
        axes.set_xlabel(f"tensors of step {where['step']}, in order")
        axes.grid(alpha=0.3)
    rows[0].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def _points(curve: dict[int, float | None]) -> tuple[list[int], list[float]]:
    finite = {step: value for step, value in curve.items() if value is not None}
    return list(finite), list(finite.values())


def _colours(candidates: dict[str, Summary]) -> list[tuple[float, ...]]:
    colours = colormaps["tab10" if len(candidates) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return [colours[i % len(colours)] for i in range(len(candidates))]
