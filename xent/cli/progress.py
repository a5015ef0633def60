"""Progress: in a terminal, one line that is updated; elsewhere, a line for each group of a sweep's runs."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton

from xent.cli.compose import Run, run_name
from xent.recording.trace import FILE, load

ERASE = "\r\x1b[K"
SEEDS_AND_NUDGES = "seed=", "nudge="

Overrides = tuple[str, ...]


@dataclass
class Sweep(metaclass=Singleton):  # Hydra copies its singletons to the processes that it starts
    """The sweep that this process belongs to, if any.

    Attributes:
        runs: the command line of each run, without what is Hydra's; none without a sweep.
        shared: what all of these have in common.
        folder: where they are recorded.
        typed: the arguments of the command.
        began: when training began, in seconds.
        earlier: how many runs were finished before.
    """

    runs: tuple[Overrides, ...] = ()
    shared: frozenset[str] = frozenset()
    folder: Path = Path()
    typed: Overrides = ()
    began: float = 0.0
    earlier: int = 0

    def begin(self, runs: tuple[Overrides, ...], folder: Path) -> None:
        """Begin to count the runs of a sweep, in an absolute folder; none if their folders have names of their own."""
        self.runs, self.shared = runs, frozenset.intersection(*map(frozenset, runs)) if runs else frozenset()
        self.folder, self.typed, self.began = folder, tuple(sys.argv[1:]), time.time()
        self.earlier = self.finished()

    def trace(self, run: Overrides) -> Path:
        """The file that a run leaves when it is finished."""
        return self.folder / run_name([*run]) / FILE

    def finished(self) -> int:
        """How many runs are finished, whichever process trained them."""
        return sum(self.trace(run).exists() for run in self.runs)

    def name(self, run: Overrides, without: Overrides = ()) -> str:
        """What tells a run from the others, `loss=scratch seed=1`, without some keys."""
        return " ".join(word for word in run if word not in self.shared and not word.startswith(without))

    def is_drawn(self, run: Sequence[str]) -> bool:
        """Whether a run has the first seed of the sweep, whose curves stand for those of the others."""
        return not self.runs or all(word in run for word in self.runs[0] if word.startswith("seed="))

    def so_far(self, finished: int, part: float = 0.0) -> str:
        """`12 of 72 runs, 40 s left`, when a part, from 0 to 1, of another run is done."""
        if finished == len(self.runs):
            return f"{finished} runs are trained, judging them"
        made = finished + part - self.earlier
        left = (len(self.runs) - finished - part) * (time.time() - self.began) / made if made else None
        return f"{finished} of {len(self.runs)} runs{_left(left)}"

    def group(self, run: Overrides) -> list[Path]:
        """The traces of a run and of those that differ from it in seed and nudge alone."""
        kind = self.name(run, SEEDS_AND_NUDGES)
        return [self.trace(each) for each in self.runs if self.name(each, SEEDS_AND_NUDGES) == kind]


@contextmanager
def progress(run: Run, first: int, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Show the progress of a run that trains alone in a terminal; the line disappears at the end.

    Args:
        run: the run; of a sweep whose runs are counted, the progress is that of the sweep.
        first: the number of steps from which it resumes.
        steps: their number at the end.

    Yields:
        a function that takes the number of steps made and the loss.
    """
    is_alone = not run.is_swept or HydraConfig.get().launcher.get("n_jobs", 1) == 1
    begun, sweep, is_shown = time.time(), Sweep(), is_terminal() and is_alone
    is_counted, finished = run.is_swept and bool(sweep.runs), sweep.finished() if is_shown else 0

    def show(step: int, loss: float) -> None:
        at = f"step {step} of {steps}"
        if is_counted:
            _update(sweep.so_far(finished, step / steps), at, f"loss {loss:.4f}", sweep.name(tuple(run.overrides)))
        else:
            left = (steps - step) * (time.time() - begun) / (step - first)
            _update(f"{at}{_left(left)}", f"loss {loss:.4f}")

    try:
        yield show if is_shown else lambda step, loss: None
    finally:
        if is_shown:
            print(erase(), end="", flush=True)


def show_trying(runs: int) -> None:
    """Show in a terminal that a sweep is tried before its first run."""
    if is_terminal():
        _update(f"trying the losses of {runs} runs")


def show_sweep(run: Run | None = None) -> None:
    """Show how far the sweep is, after one of its runs if it is given.

    Without a terminal, print a line when the last run of a group has ended: one of those that differ in seed and nudge
    alone. In several processes, that is the run whose trace is the newest.
    """
    sweep = Sweep()
    if not sweep.runs:
        return
    if is_terminal():
        _update(sweep.so_far(sweep.finished()))
    elif run:
        overrides = tuple(run.overrides)
        group = sweep.group(overrides)
        newest = all(file.exists() for file in group) and max(group, key=lambda file: (file.stat().st_ctime_ns, file))
        if newest == sweep.trace(overrides):
            traces = [load(file.parent) for file in group]
            results = zip(*(trace.tests[trace.step] for trace in traces))
            loss, accuracy = (sum(figures) / len(group) for figures in results)
            what = f"{len(group)} runs" if len(group) > 1 else "one run"
            name = sweep.name(overrides, SEEDS_AND_NUDGES)
            print(f"{f'{name}: ' if name else ''}{what}, test loss {loss:.4f}, accuracy {accuracy:.2%}", flush=True)


def erase(stream: TextIO | None = None) -> str:
    """What takes the line of progress away; empty if a stream, by default standard output, is no terminal."""
    return ERASE if is_terminal(stream) else ""


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream, by default standard output, is a terminal in which a line can be erased."""
    return (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"


def _update(*parts: str) -> None:
    """Show a line in place of the last one: its first part, and as many of the others as fit into the terminal."""
    width = shutil.get_terminal_size().columns
    lines = list(accumulate(filter(None, parts), "{}, {}".format))
    line = next((line for line in reversed(lines) if len(line) < width), parts[0][: width - 1])
    print(f"{ERASE}{line}", end="", flush=True)


def _left(seconds: float | None) -> str:
    """`, 40 s left`; empty if the time is not known."""
    if seconds is None:
        return ""
    seconds_of = {"s": 1, "min": 60, "h": 3600}
    unit = "s" if seconds < 120 else "min" if seconds < 7200 else "h"
    return f", {seconds / seconds_of[unit]:.0f} {unit} left"
