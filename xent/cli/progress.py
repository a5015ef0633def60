"""What a person sees of a run in the terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Line
from rich.text import Text

from xent.cli.compose import Run
from xent.cli.paths import shown
from xent.recording import Recorder
from xent.recording.processes import is_first

Show = Callable[[int, dict[str, float]], None]


@dataclass
class Sweep(metaclass=Singleton):  # Hydra copies its singletons to the processes that it starts
    """The sweep that this process belongs to, if any."""

    runs: int = 0
    keys: tuple[str, ...] = ()  # the settings that are swept
    folder: Path = Path()
    at_once: int = 1
    start: float = 0.0  # in seconds since the epoch

    def begin(self, runs: int, keys: tuple[str, ...], folder: Path, at_once: int) -> None:
        self.runs, self.keys, self.folder, self.at_once, self.start = runs, keys, folder, at_once, time.time()

    def name(self, overrides: list[str]) -> str:
        """The run that is trained now: `12 of 72, loss=scratch seed=1`."""
        swept = [each for each in overrides if each.partition("=")[0] in self.keys]
        return f"{HydraConfig.get().job.num + 1} of {self.runs}, {' '.join(swept)}"

    def left(self) -> str:
        """The time that is left, by what the runs before took: `, 20 s left`."""
        before = HydraConfig.get().job.num
        spent = time.time() - self.start
        return f", {_duration(spent / before * (self.runs - before))} left" if before else ""


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.0f} h"


@contextmanager
def progress(run: Run, steps: int) -> Iterator[Show]:
    """A line that is gone in the end, with a run's last loss; none where several share a terminal, or there is none.

    Yields:
        a function that takes the number of steps made and scalars by their TensorBoard tags.
    """
    console = Console()
    of_run = BarColumn(10), MofNCompleteColumn(), TextColumn("{task.description}"), StepsPerSecond()
    sweep = Sweep()
    name = f"{sweep.name(run.overrides)}{sweep.left()}" if run.swept else ""
    columns = (TextColumn(name), *of_run, TimeRemainingColumn())
    silent = not console.is_terminal or (run.swept and sweep.at_once != 1)
    with Progress(*columns, console=console, transient=True, disable=silent) as display:
        line = display.add_task("", total=steps)

        def show(step: int, scalars: dict[str, float]) -> None:
            if "train/loss" in scalars:
                display.update(line, completed=step, description=f"loss {scalars['train/loss']:.4f}")

        yield show


class StepsPerSecond(ProgressColumn):
    def render(self, task: Line) -> Text:
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "")


def print_start(run: Run, recorder: Recorder) -> None:
    """What a single run is, and from where it goes on; of a sweep its first line says that."""
    if not run.swept and is_first():
        what = " ".join(f"{key}={run.settings[key]}" for key in ("loss", "model", "data", "device"))
        made = recorder.steps_made
        begins = f"going on after step {made} of" if made else "training for"
        if before := recorder.trace.settings.get("device_before"):
            what += f", {', '.join(before)} before"
        print(f"{what}: {begins} {recorder.steps} steps", flush=True)


def print_result(run: Run, newest: dict[str, float], steps: int, seconds: float) -> None:
    """The end of a run in a line, and where the rest of it is."""
    if not is_first():
        return
    of_test = f"test loss {newest['test/loss']:.4f}, accuracy {newest['test/accuracy']:.2%}"
    if run.swept:
        print(f"{Sweep().name(run.overrides)}: {of_test}, {seconds:.1f} s", flush=True)
    else:
        print(f"{of_test}, after {steps} steps in {seconds:.1f} s")
        print(shown(run.folder))
