"""Timings side by side, for the benchmarks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from statistics import median
from subprocess import PIPE

import torch
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from xent.recording.machine import machine
from xent.recording.trace_file import EVENTS
from xent.training.device import prepare

PROJECT = Path(__file__).parents[1]
CONSOLE = Console(width=150)

Work = Callable[[], object]
Rounds = list[dict[str, float]]


def option(name: str, default: str) -> str:
    """The value of `name=value` on the command line."""
    return dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument).get(name, default)


def write_into(page: str, begin: str, text: str, end: str) -> None:
    """Put a text between two lines of a page, in place of what is there; without a page, nowhere."""
    if page:
        before, _, rest = Path(page).read_text().partition(begin)
        Path(page).write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}")


def measured_device() -> torch.device:
    """The device to measure, by `device=...`, set up as for a training."""
    return prepare(option("device", "cpu"))


def seconds(work: Work, repeats: int = 1) -> float:
    """The time of `work` until the device is done with it, as the mean of so many repeats."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if torch.accelerator.is_available():
        torch.get_device_module().synchronize()
    return (time.perf_counter() - start) / repeats


def interleaved(variants: Mapping[str, Work], rounds: int, repeats: Mapping[str, int] | None = None) -> Rounds:
    """Seconds of each way in each round; all take their turn, so that what disturbs the machine disturbs all."""
    return [
        {name: seconds(work, (repeats or {}).get(name, 1)) for name, work in variants.items()} for _ in range(rounds)
    ]


def typical(rounds: Rounds, name: str) -> float:
    return median(each[name] for each in rounds)


def ratio(rounds: Rounds, name: str, to: str) -> float:
    """The median of the rounds' ratios."""
    return median(each[name] / each[to] for each in rounds)


def train(*overrides: str, **environment: str) -> str:
    """What `python train.py` prints with these overrides on the measured device."""
    command = [sys.executable, "train.py", *overrides, f"device={option('device', 'cpu')}"]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=PIPE, text=True, env=os.environ | environment)
    return done.stdout


def table(title: str, *columns: str, device: torch.device) -> Table:
    """A table that says where and when it was measured."""
    where = machine(device)
    threads = f", {where['machine.threads']} threads" if device.type == "cpu" else ""
    at = f"{where['machine.processor']}{threads}, PyTorch {where['machine.torch']}, {date.today()}"
    return Table(*columns, title=f"{title}\n{at}")


def written(folder: Path, tag: str) -> list[float]:
    """When a run began its event file, and then each value of this tag."""
    (file,) = folder.glob(f"{EVENTS}*")
    first, *events = EventFileLoader(str(file)).Load()
    tagged = [each for each in events if any(value.tag == tag for value in each.summary.value)]
    return [each.wall_time for each in (first, *tagged)]


def run_seconds(folder: Path) -> float:
    """The time of a run from its first event to its last evaluation."""
    times = written(folder, "test/loss")
    return times[-1] - times[0]


def steps_seconds(folder: Path) -> float:
    """The time of a run's steps from the first logged one to the last, without the evaluations after them."""
    _, *times = written(folder, "train/loss")
    return times[-1] - times[0]
