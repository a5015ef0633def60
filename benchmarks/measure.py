"""What the benchmarks share: arguments, sweeps, timings side by side, and tables."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from xent.compare import load_runs
from xent.recording.settings import machine_settings
from xent.recording.trace import Trace
from xent.report.page import Rows, markdown_table
from xent.training.device import choose_device, make_deterministic

PROJECT = Path(__file__).parents[1]
CONSOLE = Console(width=150)

Work = Callable[[], object]
Rounds = list[dict[str, float]]  # seconds of every variant, round by round


def arguments(**defaults: str) -> list[str]:
    """Parse the `name=value` arguments of the command line.

    Args:
        defaults: the arguments that the benchmark takes, and their defaults.

    Returns:
        the values, in the order of `defaults`.

    Raises:
        SystemExit: an argument has another name.
    """
    values = dict(defaults)
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name not in defaults:
            expected = " ".join(f"{name}={default}" for name, default in defaults.items())
            raise SystemExit(f"{argument}: expected {expected}, or another value of these")
        values[name] = value
    return list(values.values())


def write_into(page: str, begin: str, text: str) -> None:
    """Replace the text between the line `begin` and the next `<!-- end -->` of a page; without a page, do nothing."""
    if page:
        end = "<!-- end -->"
        before, _, rest = Path(page).read_text().partition(begin)
        Path(page).write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}")


def as_markdown(title: str, rows: Rows) -> str:
    """A section with a table."""
    return f"### {title}\n\n{markdown_table(rows)}"


def deterministic(device_name: str) -> torch.device:
    """The device of a name, as train.py sets it up."""
    device = choose_device(device_name)
    make_deterministic(device)
    return device


def sweep(folder: str, *overrides: str) -> list[Trace]:
    """Run `python train.py -m` with these overrides into a folder, and load the traces of its runs."""
    command = [sys.executable, "train.py", "-m", *overrides, f"hydra.sweep.dir={folder}"]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return load_runs([Path(folder)])


def seconds(work: Work, repeats: int = 1) -> float:
    """The time of `work` until the device is done with it, as the mean of so many repeats."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if torch.accelerator.is_available():
        torch.get_device_module().synchronize()
    return (time.perf_counter() - start) / repeats


def interleaved(variants: Mapping[str, Work], rounds: int, repeats: Mapping[str, int] | None = None) -> Rounds:
    """Time all variants in turn, round by round, so that what disturbs the machine disturbs all of them."""
    return [
        {name: seconds(work, (repeats or {}).get(name, 1)) for name, work in variants.items()} for _ in range(rounds)
    ]


def typical(rounds: Rounds, name: str) -> float:
    """The median of a variant's seconds."""
    return median(times[name] for times in rounds)


def ratio(rounds: Rounds, name: str, to: str) -> float:
    """The median of the rounds' ratios of one variant's time to another's."""
    return median(times[name] / times[to] for times in rounds)


def table(title: str, *columns: str, device: torch.device) -> Table:
    """An empty table that says where and when it was measured."""
    settings = machine_settings(device)
    threads = f", {settings['machine.threads']} threads" if device.type == "cpu" else ""
    where = f"{settings['machine.processor']}{threads}, PyTorch {settings['machine.torch']}, {date.today()}"
    return Table(*columns, title=f"{title}\n{where}")
