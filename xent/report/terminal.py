"""A comparison in the terminal: a table of verdicts, the answer, the remarks."""

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from xent.report.page import verdict_rows
from xent.report.summary import Summary
from xent.verdict.judging import WRONG


def print_summary(summary: Summary) -> None:
    """Print the table of verdicts, the answer and the remarks.

    In a terminal of at least 80 columns nothing is cut: long names of runs fold, and lines break between words.
    """
    header, *rows = verdict_rows(summary)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(header[0], overflow="fold")
    for title in header[1:]:
        table.add_column(title, no_wrap=title == "verdict")
    for row in rows:
        table.add_row(*row, style="bold red" if WRONG & {*row} else None)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for line in (summary["answer"], *summary["remarks"]):
        console.print(line, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
