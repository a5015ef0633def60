"""Runs of several processes for the tests: how they are begun, found and waited for."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.commands import PROJECT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SHORT = ["model=mlp", "model.width=16", "max_steps=20", "batch_size=64", "checkpoint_every=2", "log_every=1"]


def train(*arguments: object, begin: list[str] | None = None, **environment: str) -> subprocess.Popen[str]:
    command = [*(begin or [sys.executable]), "train.py", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    output, errors = process.communicate(timeout=200)
    return output, errors, process.returncode


def workers(agent: subprocess.Popen[str]) -> dict[str, int]:
    """The process ids of torchrun's processes by their ranks."""
    environments = {child: Path(f"/proc/{child}/environ").read_bytes() for child in children([agent.pid])}
    found = {child: re.search(rb"(?:^|\0)RANK=(\d+)", environment) for child, environment in environments.items()}
    return {rank[1].decode(): child for child, rank in found.items() if rank}


def children(pids: list[int]) -> list[int]:
    """The processes that these started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid, parent in map(str.split, listed.splitlines()) if int(parent) in pids]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.01)
