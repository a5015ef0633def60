"""Verdicts for people: tables, a page, a picture, figures and TensorBoard events."""

import json
import os
from itertools import cycle
from math import isfinite, log10
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from xent import tensorboard
from xent.match import without
from xent.trace import Trace
from xent.verdict import DIFFERENT, NOTHING_LEARNED, UNKNOWN, Gaps, Verdict

LINES = ("-", "--", "-.", ":")
MARKERS = "os^vD*PX"
NO_FLOOR = "no floor to judge by: train the reference with nudge=0,1,2 too"
NOTHING_TO_TELL = "nothing learned: neither loss fell, which tells nothing; train longer or with another optimizer.lr"
LEGEND = """
The gap is the distance of a run's logits of 256 test images from the reference's, over the length of those: a geometric
mean over seeds. The floor is the gap that a nudge of the reference's first weights by one ULP makes.

- decades above floor: powers of ten between gap and floor, the mean over steps and seeds
- nudged runs reach: the most decades that one nudge of the reference is above the other nudges
- left floor at step: the first at which the gap of a different run is above all of those
- losses differ by: the most that any one training loss differs from the reference's, of all steps and runs
"""
Rows = list[list[str]]  # the first is the header


def report(verdicts: list[Verdict], folder: Path, by: str = "loss") -> None:
    """Print the verdicts; write `verdict.json`, `report.md`, `curves.png` and TensorBoard events into `folder`."""
    named = dict(zip(_names([verdict.settings for verdict in verdicts], by), verdicts))
    tables = {"Verdict": _verdicts(named, by), "Gap to the reference, after so many steps": _gaps(named, by)}
    page = "\n".join(_markdown(title, rows) for title, rows in tables.items()) + LEGEND
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps({name: _figures(v) for name, v in named.items()}, indent=2))
    (folder / "report.md").write_text(page)
    figure = _draw(named, by)
    figure.savefig(folder / "curves.png", dpi=150)
    contexts, sweep = _by_context(named, by), folder.resolve().parent.name
    curves, layout = _curves(contexts, by, sweep), _layout(contexts, sweep)
    tensorboard.write_comparison(folder, curves, layout, page, figure)
    for title, rows in tables.items():
        _print(title, rows)
    if any(verdict.word == UNKNOWN for verdict in verdicts):
        print(NO_FLOOR)
    if any(verdict.word == NOTHING_LEARNED for verdict in verdicts):
        print(NOTHING_TO_TELL)
    print(os.path.relpath(folder))


def _names(settings: list[dict[str, Any]], by: str) -> list[str]:
    """Each by what is compared, and by what else differs among them: `scratch, float64`."""
    keys = [key for key in settings[0] if any(each.get(key) != settings[0].get(key) for each in settings)]
    others = [key for key in keys if key.split(".")[0] != by.split(".")[0]]
    names = [", ".join(str(each.get(key)) for key in (by, *others)) for each in settings]
    if len(set(names)) < len(names):
        own = [key for key in keys if key.startswith(f"{by}.")]
        names = [", ".join(str(each.get(key)) for key in (by, *own, *others)) for each in settings]
    return names if len(set(names)) == len(names) else [f"{name} #{i}" for i, name in enumerate(names, start=1)]


def _contexts(named: dict[str, Verdict], by: str) -> dict[str, list[str]]:
    """The candidates that share all settings but what is compared, by the name of what they share: `float64`."""
    shared: dict[str, list[str]] = {}
    for name, verdict in named.items():
        shared.setdefault(without(verdict.pairs[0].reference, by, "seed", "nudge"), []).append(name)
    settings = [named[names[0]].pairs[0].reference.settings for names in shared.values()]
    return dict(zip(_names(settings, by), shared.values()))


def _by_context(named: dict[str, Verdict], by: str) -> dict[str, dict[str, Verdict]]:
    """The verdicts by what their candidates share, then by what is compared."""
    return {
        context: dict(zip(_names([named[name].settings for name in names], by), (named[name] for name in names)))
        for context, names in _contexts(named, by).items()
    }


def _tags(sweep: str, context: str) -> tuple[str, str]:
    """The tags of the losses and the gaps: with the sweep in them, since a chart shows every curve of its tag."""
    return f"loss/{sweep}: {context}", f"log10 of the gap/{sweep}: {context}"


def _curves(contexts: dict[str, dict[str, Verdict]], by: str, sweep: str) -> tensorboard.Curves:
    """For TensorBoard, a run a candidate: in each context the losses of the first seed, and the gaps in decades."""
    curves: tensorboard.Curves = {}
    for context, verdicts in contexts.items():
        (first, *_) = verdicts.values()
        reference = first.pairs[0].reference
        losses = {str(reference.settings[by]): reference.losses}
        losses |= {name: verdict.pairs[0].candidate.losses for name, verdict in verdicts.items()}
        gaps = {name: verdict.gap for name, verdict in verdicts.items()}
        gaps |= {"floor": first.floor} if first.floor else {}
        of_loss, of_gap = _tags(sweep, context)
        for name, each in losses.items():
            curves.setdefault(name, {})[of_loss] = _thinned(each)
        for name, gap in gaps.items():
            curves.setdefault(name, {})[of_gap] = {step: log10(value) for step, value in gap.items() if value > 0}
    return curves


def _layout(contexts: dict[str, dict[str, Verdict]], sweep: str) -> tensorboard.Layout:
    """For TensorBoard, the two charts of each context, with the verdicts as their title."""
    layout: tensorboard.Layout = {}
    for context, verdicts in contexts.items():
        found: dict[str, list[str]] = {}
        for name, verdict in verdicts.items():
            found.setdefault(verdict.word, []).append(name)
        words = "; ".join(f"{word}: {', '.join(names)}" for word, names in found.items())
        charts = "training loss", "log10 of the gap to the reference, and the floor"
        layout[f"{sweep}, against {context} | {words}"] = dict(zip(charts, _tags(sweep, context)))
    return layout


def _thinned(losses: Tensor) -> dict[int, float]:
    """The losses by their steps, at most as many as TensorBoard shows of a curve."""
    every = -(-len(losses) // tensorboard.MOST_POINTS)
    return dict(zip(range(every, len(losses) + 1, every), losses[every - 1 :: every].tolist()))


def _floors(named: dict[str, Verdict], by: str) -> dict[str, Gaps]:
    return {
        f"floor: {context} nudged": named[names[0]].floor
        for context, names in _contexts(named, by).items()
        if named[names[0]].floor
    }


def _verdicts(named: dict[str, Verdict], by: str) -> Rows:
    header = ["run", "verdict", "decades above floor", "nudged runs reach", "left floor at step"]
    rows = [[*header, "losses differ by", "test loss", "test accuracy"]]
    for context, names in _contexts(named, by).items():
        references = {id(pair.reference): pair.reference for name in names for pair in named[name].pairs}
        rows.append([context, "the reference", "", "", "", "", *_final(list(references.values()))])
        for name in names:
            verdict = named[name]
            decades = ["" if x is None else f"{x:+.2f}" for x in (verdict.excess, verdict.largest_null)]
            left = "" if verdict.left_floor is None else str(verdict.left_floor)
            difference = f"{verdict.largest_loss_difference:.1e}"
            final = _final([pair.candidate for pair in verdict.pairs])
            rows.append([name, verdict.word, *decades, left, difference, *final])
    return rows


def _gaps(named: dict[str, Verdict], by: str) -> Rows:
    lines = {name: verdict.gap for name, verdict in named.items()} | _floors(named, by)
    steps = sorted({step for line in lines.values() for step in line})
    rows = [[name, *(f"{line[step]:.0e}" if step in line else "" for step in steps)] for name, line in lines.items()]
    return [["run", *map(str, steps)], *rows]


def _final(traces: list[Trace]) -> list[str]:
    """Test loss and accuracy at the end, the mean over runs."""
    loss, accuracy = (mean(values) for values in zip(*(trace.tests[trace.step] for trace in traces)))
    return [f"{loss:.4f}", f"{accuracy:.2%}"]


def _figures(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON, which has no NaN and no infinity: null stands for them."""

    def number(value: float | None) -> float | None:
        return value if value is not None and isfinite(value) else None

    def run(trace: Trace) -> dict[str, Any]:
        loss, accuracy = trace.tests[trace.step]
        return {"run": trace.name, "test_loss": number(loss), "test_accuracy": accuracy, "settings": trace.settings}

    return {
        "verdict": verdict.word,
        "excess": number(verdict.excess),
        "largest_null": number(verdict.largest_null),
        "left_floor": verdict.left_floor,
        "largest_loss_difference": number(verdict.largest_loss_difference),
        "gap": {step: number(value) for step, value in verdict.gap.items()},
        "floor": verdict.floor,
        "floor_range": verdict.floor_range,
        "runs": [{"candidate": run(pair.candidate), "reference": run(pair.reference)} for pair in verdict.pairs],
    }


def _markdown(title: str, rows: Rows) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _print(title: str, rows: Rows) -> None:
    header, *body = rows
    table = Table(*header, title=title, title_justify="left")
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in body:
        table.add_row(*row, style="bold red" if DIFFERENT in row else None)
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)


def _draw(named: dict[str, Verdict], by: str) -> Figure:
    """A column for each context: the loss curves over each other, the reference broad and light; under them the gaps.

    Of several seeds, the first one's losses are drawn; the floor is shaded from the least nudged run to the largest.
    """
    contexts = _contexts(named, by)
    figure = Figure(figsize=(2 + 6 * len(contexts), 8), layout="constrained")
    axes = figure.subplots(2, len(contexts), sharex=True, sharey="row", squeeze=False)
    for (losses, gaps), (context, names) in zip(axes.T, contexts.items()):
        reference = named[names[0]].pairs[0].reference
        steps = range(1, len(reference.losses) + 1)
        losses.plot(steps, reference.losses, color="0.75", linewidth=4, label=context)
        for name, style in zip(names, cycle(LINES)):
            losses.plot(steps, named[name].pairs[0].candidate.losses, linewidth=0.8, linestyle=style, label=name)
        losses.set(title=context, ylabel="training loss", yscale="log")
        for name, marker in zip(names, cycle(MARKERS)):
            _draw_gap(gaps, name, named[name], marker)
        band = named[names[0]].floor_range
        if band:
            low, high = zip(*band.values())
            gaps.fill_between(list(band), low, high, color="0.85", hatch="///", edgecolor="0.6", label="floor: nudged")
        gaps.set(xlabel="step", xscale="log", ylabel="relative gap of the probe logits")
        if any(value > 0 for name in names for value in named[name].gap.values()):
            gaps.set_yscale("log")
        for each in (losses, gaps):
            each.grid(alpha=0.3)
            each.legend(fontsize="small" if len(names) < 8 else 4)
    return figure


def _draw_gap(axes: Axes, name: str, verdict: Verdict, marker: str) -> None:
    gap = {step: value for step, value in verdict.gap.items() if value > 0}  # a log axis has no zero
    axes.plot(list(gap), list(gap.values()), marker=marker, markersize=4, label=f"{name}: {verdict.word}")
