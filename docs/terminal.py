"""A picture of a command in a terminal of 80 columns."""

import os
import pty
import re
from typing import Any

from matplotlib.figure import Figure

from xent.cli.progress import ERASE

COLUMNS = 80
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(command: list[str]) -> list[str]:
    """The lines that a command shows: its line of progress halfway, then what stays of it in the end."""
    os.environ["COLUMNS"] = str(COLUMNS)
    output = bytearray()

    def read(terminal: int) -> bytes:
        output.extend(block := os.read(terminal, 2**16))
        return block

    pty.spawn(command, read)
    first, *progress, last = output.decode().split(ERASE)
    text = "".join([first, progress[len(progress) // 2], "\n", last])
    return [COLOURS.sub("", line).rstrip() for line in text.splitlines()]


def picture(command: list[str], typed: str) -> Figure:
    """Draw what a command shows, under what was typed."""
    lines = [f"$ {typed}", *shown(command)]
    figure = Figure(figsize=(0.1 * COLUMNS + 0.4, 0.215 * len(lines) + 0.3), facecolor="0.12")
    style: dict[str, Any] = {"family": "monospace", "fontsize": 12, "color": "0.9", "va": "top", "linespacing": 1.25}
    figure.text(0.02, 0.98, "\n".join(lines), parse_math=False, **style)
    return figure
