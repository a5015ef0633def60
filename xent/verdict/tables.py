"""The tables of a comparison, for a page and for the terminal."""

from statistics import mean

from rich.console import Console
from rich.table import Table

from xent.training.trace import Trace
from xent.verdict.grouping import Group
from xent.verdict.judging import Verdict

Rows = list[list[str]]  # the first is the header


def verdict_rows(groups: list[Group]) -> Rows:
    """Each reference, and under it its candidates with their verdicts."""
    header = ["run", "verdict", "decades above floor", "nudged runs reach", "left floor at step"]
    rows = [[*header, "losses above floor", "losses differ by", "test loss", "test accuracy"]]
    for group in groups:
        references = {id(pair.reference): pair.reference for each in group.judgements.values() for pair in each.pairs}
        rows.append([group.name, "the reference", *[""] * 5, *_final(list(references.values()))])
        for name, judgement in group.judgements.items():
            outputs, losses = judgement.outputs, judgement.losses
            identical = judgement.verdict is Verdict.IDENTICAL  # so there is no logarithm of a gap
            figures = None if identical else outputs.margin, outputs.noise, None if identical else losses.margin
            margin, noise, of_losses = ("" if value is None else f"{value:+.2f}" for value in figures)
            left = "" if judgement.left_floor is None else str(judgement.left_floor)
            difference = f"{judgement.largest_loss_difference:.1e}"
            final = _final([pair.candidate for pair in judgement.pairs])
            rows.append([name, judgement.verdict, margin, noise, left, of_losses, difference, *final])
    return rows


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
    """Test loss and accuracy at the end, the mean over runs."""
    loss, accuracy = (mean(values) for values in zip(*(trace.tests[trace.step] for trace in traces)))
    return [f"{loss:.4f}", f"{accuracy:.2%}"]


def as_markdown(title: str, rows: Rows) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def print_table(title: str, rows: Rows) -> None:
    header, *body = rows
    table = Table(*header, title=title, title_justify="left")
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in body:
        table.add_row(*row, style="bold red" if {Verdict.DIFFERENT, Verdict.OTHER_VALUES} & {*row} else None)
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)
