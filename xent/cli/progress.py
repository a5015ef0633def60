"""What a person sees of a run in the terminal."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Line
from rich.table import Table
from rich.text import Text

RESULT = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")


@contextmanager
def progress(steps: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A line with the last loss and accuracy, steps per second and time left; silent where output is no terminal.

    Yields:
        a function that takes the number of steps made and scalars by their TensorBoard tags.
    """
    console = Console()
    text = TextColumn("{task.description}")
    columns = (BarColumn(), MofNCompleteColumn(), text, StepsPerSecond(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        line = display.add_task("", total=steps)

        def show(step: int, scalars: dict[str, float]) -> None:
            if "train/loss" in scalars:
                description = f"loss {scalars['train/loss']:.4f}  accuracy {scalars['train/accuracy']:.2%}"
                display.update(line, completed=step, description=description)

        yield show


class StepsPerSecond(ProgressColumn):
    def render(self, task: Line) -> Text:
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "")


def print_result(newest: dict[str, float], steps: int, seconds: float, folder: Path) -> None:
    """The end of a run as a table, and where the rest of it is."""
    table = Table("steps", "seconds", *RESULT)
    table.add_row(str(steps), f"{seconds:.1f}", *(f"{newest[tag]:.4g}" for tag in RESULT))
    Console().print(table)
    print(os.path.relpath(folder))
