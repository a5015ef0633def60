"""The tables of a comparison, for a page and for the terminal."""

import sys
from math import isnan, nan
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from xent.recording.trace import Trace
from xent.verdict.grouping import Group
from xent.verdict.judging import Judgement, Verdict

Rows = list[list[str]]  # the first is the header


def verdict_rows(groups: list[Group]) -> Rows:
    """Each candidate with its verdict: what the terminal shows."""
    rows = [["run", "verdict", "decades above floor", "limit"]]
    for group in groups:
        for name, judgement in group.judgements.items():
            rows.append([name, judgement.verdict, margin_of(judgement), f"{judgement.allowed(judgement.outputs):.2f}"])
    return rows


def detail_rows(groups: list[Group]) -> Rows:
    """Each reference, and under it its candidates: what the verdict is made of."""
    header = ["run", "nudged runs reach", "left floor at step", "losses above floor", "losses differ by"]
    rows = [[*header, "test loss", "test accuracy"]]
    for group in groups:
        rows.append([f"{group.name}, the reference", *[""] * 4, *_final(group.references)])
        for name, judgement in group.judgements.items():
            noise = "" if judgement.outputs.noise is None else f"{judgement.outputs.noise:+.2f}"
            left = "" if judgement.left_floor is None else str(judgement.left_floor)
            identical = judgement.verdict is Verdict.IDENTICAL
            of_losses = "" if judgement.losses.margin is None or identical else f"{judgement.losses.margin:+.2f}"
            difference = f"{judgement.largest_loss_difference:.1e}"
            rows.append([name, noise, left, of_losses, difference, *_final([p.candidate for p in judgement.pairs])])
    while not any(last for *_, last in rows[1:]):
        rows = [row[:-1] for row in rows]  # nobody evaluated
    return rows


def margin_of(judgement: Judgement) -> str:
    """Decades above the floor; nothing where there is no floor, or no logarithm of a gap."""
    margin = judgement.outputs.margin
    return "" if margin is None or judgement.verdict is Verdict.IDENTICAL else f"{margin:+.2f}"


def gap_rows(groups: list[Group]) -> Rows:
    """The gap of every candidate at the probe steps, then the floors."""
    lines = {name: judgement.outputs.gap for group in groups for name, judgement in group.judgements.items()}
    for group in groups:
        floor = next(iter(group.judgements.values())).outputs.floor
        lines |= {f"floor: {group.name} nudged": floor} if floor else {}
    steps = sorted({step for line in lines.values() for step in line})
    rows = [[name, *(f"{line[step]:.0e}" if step in line else "" for step in steps)] for name, line in lines.items()]
    return [["run", *map(str, steps)], *rows]


def _final(traces: list[Trace]) -> list[str]:
    """Test loss and accuracy at the end, the mean over runs; nothing of what was not recorded."""
    loss, accuracy = (mean(values) for values in zip(*(trace.tests.get(trace.step, (nan, nan)) for trace in traces)))
    return ["" if isnan(loss) else f"{loss:.4f}", "" if isnan(accuracy) else f"{accuracy:.2%}"]


def as_markdown(title: str, rows: Rows) -> str:
    return f"## {title}\n\n{markdown_table(rows)}"


def markdown_table(rows: Rows) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def print_table(rows: Rows) -> None:
    """In a terminal of 80 columns and more nothing is cut: long names of runs are folded."""
    header, *body = rows
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(header[0], overflow="fold")
    for title in header[1:]:
        table.add_column(title, no_wrap=title == "verdict")
    for row in body:
        table.add_row(*row, style="bold red" if {Verdict.DIFFERENT, Verdict.OTHER_VALUES} & {*row} else None)
    _console().print(table)


def print_folded(line: str) -> None:
    """A line of prose, folded between words in a terminal."""
    _console().print(line, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=120)
