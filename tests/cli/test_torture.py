"""Runs killed at random moments, and resumed: bit for bit what runs are that nothing happened to.

One kill of each kind in `make test`; twenty in `make torture`, which prints how many of them left no trace.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.commands import PROJECT
from tests.helpers.processes import torchrun, wait_for, workers
from tests.helpers.runs import differences

# Checkpoints, events and evaluations take most of the time, so that most kills fall into one of them.
SETTINGS = ["batch_size=4096", "max_steps=30", "log_every=1", "checkpoint_every=2"]
MODELS = {"mlp": ["model=mlp"], "cnn": ["model=cnn", "model.width=4", "model.norm=group"]}
AT_ONCE = 2


def arguments(folder: Path, model: str, kind: str) -> list[str]:
    how = {
        "a run": [f"hydra.run.dir={folder}"],
        "a run of two processes": [f"hydra.run.dir={folder}"],
        "a sweep": ["-m", "loss=torch,scratch", f"hydra.sweep.dir={folder}"],
    }
    return [*beginning(kind), "train.py", *how[kind], *MODELS[model], *SETTINGS]


def beginning(kind: str) -> list[str]:
    return torchrun(2) if kind == "a run of two processes" else [sys.executable]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(command: list[str]) -> None:
    process = start(command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def kill_and_resume(folder: Path, model: str, kind: str, after: float, victim: int) -> bool:
    """Kill a run, or sweep, so many seconds after it made its folder, and finish it. Whether it was killed in time.

    Of two processes, that of a rank is killed, and ends the other, or torchrun, which is rank -1 here.
    """
    process = start(arguments(folder, model, kind))
    wait_for(folder, process)
    time.sleep(after)
    of_run = workers(process.pid) if kind == "a run of two processes" else {}
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(of_run.get(victim, process.pid), signal.SIGKILL)
    process.communicate()
    wait_until_gone(of_run.values())
    resumable = kind != "a sweep" and (folder / "checkpoint.pt").exists()
    again = [*beginning(kind), "train.py", f"resume={folder}"]
    finish(again if resumable else arguments(folder, model, kind))
    return process.returncode != 0


def wait_until_gone(processes: Iterable[int]) -> None:
    """Those of a torchrun that was killed end by themselves, when they find it gone."""
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.1)


@contextmanager
def followed(folder: Path) -> Iterator[None]:
    """Let a reader follow the events of each run in a folder, and find at the end what one that begins there finds."""
    readers: dict[Path, EventAccumulator] = {}
    over = threading.Event()

    def follow() -> None:
        while not over.wait(0.1):
            for run in {file.parent for file in folder.rglob("events.out.tfevents*")}:
                if run not in readers:
                    readers[run] = EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0})
                readers[run].Reload()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert readers
    for run, reader in readers.items():
        fresh = EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0}).Reload()
        reader.Reload()
        for tag in fresh.Tags()["scalars"]:
            points = [[(each.step, each.value) for each in which.Scalars(tag)] for which in (reader, fresh)]
            assert points[0] == points[1], tag


@pytest.mark.parametrize("kind", ["a run", "a run of two processes", "a sweep"])
@pytest.mark.parametrize("model", MODELS)
def test_killed_at_random_moments(
    model: str, kind: str, tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = pytestconfig.getoption("kills")
    whole = tmp_path / "whole"
    process = start(arguments(whole, model, kind))
    wait_for(whole, process)
    began = time.monotonic()
    output, _ = process.communicate(timeout=300)
    duration = time.monotonic() - began
    assert process.returncode == 0, output

    draw = random.Random()
    moments = [draw.uniform(0, duration) for _ in range(kills)]
    victims = [draw.choice((-1, 0, 1)) for _ in range(kills)]

    def parts(folder: Path) -> list[Path]:
        return sorted(folder.glob("loss=*")) if kind == "a sweep" else [folder]

    def trial(number: int) -> tuple[bool, list[str]]:
        folder = tmp_path / str(number)
        with followed(folder):
            killed = kill_and_resume(folder, model, kind, moments[number], victims[number])
        assert len(parts(folder)) == len(parts(whole))
        found = [name for ours, theirs in zip(parts(whole), parts(folder)) for name in differences(ours, theirs)]
        if (
            kind == "a sweep"
            and (folder / "comparison" / "report.md").read_text() != (whole / "comparison" / "report.md").read_text()
        ):
            found.append("comparison")
        shutil.rmtree(folder)
        return killed, found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(trial, range(kills)))
    different = {f"{moment:.2f} s": found for moment, (_, found) in zip(moments, results) if found}
    with capsys.disabled():
        killed = sum(killed for killed, _ in results)
        print(f"\n{model}, {kind}: {kills - len(different)} of {kills} are bit for bit "
              f"the run that was not killed ({killed} killed, of {duration:.1f} s)")  # fmt: skip
    assert not different
