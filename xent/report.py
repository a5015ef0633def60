"""A comparison for people: tables, a page, a picture, figures and TensorBoard events."""

import json
import os
from itertools import cycle
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from xent import tensorboard
from xent.compare import Comparison
from xent.trace import Trace

LINES = ("-", "--", "-.", ":")
MARKERS = "os^vD*PX"
Rows = list[list[str]]  # the first is the header


def report(comparisons: list[Comparison], folder: Path) -> None:
    """Print the comparison; write `verdict.json`, `report.md`, `curves.png` and TensorBoard events into `folder`."""
    tables = {"Every run beside its reference": _runs(comparisons), "Gap to the reference": _gaps(comparisons)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps([_figures(comparison) for comparison in comparisons], indent=2))
    (folder / "report.md").write_text("\n".join(_markdown(title, rows) for title, rows in tables.items()))
    _draw(comparisons).savefig(folder / "curves.png", dpi=150)
    tensorboard.write_gaps(folder, {comparison.candidate.name: comparison.gap for comparison in comparisons})
    for title, rows in tables.items():
        _print(title, rows)
    print(os.path.relpath(folder))


def _runs(comparisons: list[Comparison]) -> Rows:
    rows = [["run", "test loss", "test accuracy", "largest loss difference", "bit for bit equal"]]
    for reference, candidates in _by_reference(comparisons):
        rows.append([reference.name, *_final(reference), "", "the reference"])
        for comparison in candidates:
            equal = "yes" if comparison.bitwise_identical else "no"
            difference = f"{comparison.largest_loss_difference:.1e}"
            rows.append([comparison.candidate.name, *_final(comparison.candidate), difference, equal])
    return rows


def _gaps(comparisons: list[Comparison]) -> Rows:
    rows = [["steps", *(comparison.candidate.name for comparison in comparisons)]]
    for step in sorted({step for comparison in comparisons for step in comparison.gap}):
        gaps = [comparison.gap.get(step) for comparison in comparisons]
        rows.append([str(step), *("" if gap is None else f"{gap:.1e}" for gap in gaps)])
    return rows


def _by_reference(comparisons: list[Comparison]) -> list[tuple[Trace, list[Comparison]]]:
    references = {id(comparison.reference): comparison.reference for comparison in comparisons}
    return [(r, [c for c in comparisons if c.reference is r]) for r in references.values()]


def _final(trace: Trace) -> tuple[str, str]:
    loss, accuracy = trace.tests[trace.step]
    return f"{loss:.4f}", f"{accuracy:.2%}"


def _figures(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON, which has no NaN and no infinity: null stands for them."""

    def number(value: float) -> float | None:
        return value if isfinite(value) else None

    def run(trace: Trace) -> dict[str, Any]:
        loss, accuracy = trace.tests[trace.step]
        return {"run": trace.name, "test_loss": number(loss), "test_accuracy": accuracy, "settings": trace.settings}

    return {
        "candidate": run(comparison.candidate),
        "reference": run(comparison.reference),
        "gap": {step: number(gap) for step, gap in comparison.gap.items()},
        "largest_loss_difference": number(comparison.largest_loss_difference),
        "bitwise_identical": comparison.bitwise_identical,
    }


def _markdown(title: str, rows: Rows) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _print(title: str, rows: Rows) -> None:
    header, *body = rows
    table = Table(*header, title=title, title_justify="left")
    for row in body:
        table.add_row(*row)
    Console().print(table)


def _draw(comparisons: list[Comparison]) -> Figure:
    """The loss curves over each other, each reference a broad light line, and under them the gaps on a log axis."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    losses, gaps = figure.subplots(2, 1, sharex=True)
    for reference, candidates in _by_reference(comparisons):
        steps = range(1, len(reference.losses) + 1)
        losses.plot(steps, reference.losses, color="0.75", linewidth=4, label=reference.name)
        for comparison, style in zip(candidates, cycle(LINES)):
            run = comparison.candidate
            losses.plot(steps, run.losses, linewidth=0.8, linestyle=style, label=run.name)
    losses.set(ylabel="training loss", yscale="log")
    for comparison, marker in zip(comparisons, cycle(MARKERS)):
        gap = {step: value for step, value in comparison.gap.items() if value > 0}  # a log axis has no zero
        name = comparison.candidate.name
        if not all(map(isfinite, comparison.gap.values())):
            name += ": not finite everywhere"
        elif not gap:
            name += ": zero at every step"
        gaps.plot(list(gap), list(gap.values()), marker=marker, label=name)
    gaps.set(xlabel="step", xscale="log", ylabel="relative gap of the probe logits")
    if any(gap > 0 for comparison in comparisons for gap in comparison.gap.values()):
        gaps.set_yscale("log")
    for axes in (losses, gaps):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
