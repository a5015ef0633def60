"""Trainings in processes of their own, for the tests: how they are started, found and waited for."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.commands import PROJECT

SHORT = ["model=mlp", "model.width=16", "max_steps=20", "batch_size=64", "checkpoint_every=2", "log_every=1"]


def torchrun(processes: int, *options: str) -> list[str]:
    """The words before `train.py` that start it in so many processes of one run."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *options]
    return [sys.executable, *words]


def train(*arguments: object, start: list[str] | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start `train.py`, by the words in `start`, which are Python's by default."""
    return subprocess.Popen(
        [*(start or [sys.executable]), "train.py", *map(str, arguments)],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal may be sent to all of its processes, as a terminal does
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    """Output, errors and exit code of a process, when it has ended."""
    output, errors = process.communicate(timeout=200)
    return output, errors, process.returncode


def trained(*arguments: object, start: list[str] | None = None) -> str:
    """The output of a training that came to its end."""
    output, errors, code = ended(train(*arguments, start=start))
    assert code == 0, errors
    return output


def workers(agent: int) -> dict[int, int]:
    """The process ids of torchrun's processes by their ranks, of those that there are."""
    found = {}
    for child in children(agent):
        environment = Path(f"/proc/{child}/environ")
        rank = re.search(rb"(?:^|\0)RANK=(\d+)", environment.read_bytes() if environment.exists() else b"")
        if rank:
            found[int(rank[1])] = child
    return found


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid, of in map(str.split, listed.splitlines()) if int(of) == parent]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a path exists, or the process has ended."""
    while process.poll() is None and not path.exists():
        time.sleep(0.01)
