"""Runs killed at random moments, and resumed: bit for bit what runs are that nothing happened to.

One kill of a run and of a sweep in `make test`; twenty of each in `make torture`, and of two processes.
"""

import random
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.processes import Forked, ranks, wait_for
from tests.helpers.runs import differences, judged

# Checkpoints, events and evaluations take most of the time, so that most kills fall into one of them.
SETTINGS = ["batch_size=512", "max_steps=30", "test_every=10", "log_every=1", "checkpoint_every=2"]
CNN = ["model=cnn", "model.width=4", "model.norm=group"]
MODELS = {"a run": CNN, "a run of two processes": CNN, "a sweep": ["model=mlp"]}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("kill", range(metafunc.config.getoption("kills")))


def start(kind: str, folder: Path) -> list[Forked]:
    """Start a run, or a sweep, in a folder, and return its processes."""
    if kind == "a sweep":
        return [Forked("-m", "loss=torch,scratch", f"hydra.sweep.dir={folder}", *MODELS[kind], *SETTINGS)]
    command = [*MODELS[kind], *SETTINGS, "timeout=30", f"hydra.run.dir={folder}"]
    return ranks(command, command) if kind == "a run of two processes" else [Forked(*command)]


def finish(processes: list[Forked]) -> None:
    for process in processes:
        result = process.result()
        assert (result.returncode, result.stderr) == (0, "")


def reader_of(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def points(reader: EventAccumulator) -> list[tuple[str, int, float]]:
    tags = reader.Reload().Tags()["scalars"]
    return [(tag, point.step, point.value) for tag in tags for point in reader.Scalars(tag)]


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, float]:
    """What is trained, its folder, and the seconds that it takes once the folder is there."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    processes = start(request.param, folder)
    wait_for(folder, processes[0])
    began = time.monotonic()
    finish(processes)
    return request.param, folder, time.monotonic() - began


@pytest.mark.parametrize(
    "whole", ["a run", "a sweep", pytest.param("a run of two processes", marks=pytest.mark.extra)], indirect=True
)
def test_killed_at_a_random_moment(whole: tuple[str, Path, float], kill: int, tmp_path: Path) -> None:
    """A reader of the events that saw what was there at the kill sees in the end what a new one sees."""
    kind, expected, seconds = whole
    folder = tmp_path / "run"
    processes = start(kind, folder)
    wait_for(folder, processes[0])
    time.sleep(random.uniform(0, seconds))
    random.choice(processes).process.kill()
    for process in processes:
        process.process.join()  # the other rank ends by itself
    readers = {file.parent: reader_of(file.parent) for file in folder.rglob("events*")}

    finish(start(kind, folder))
    for run, reader in readers.items():
        assert points(reader) == points(reader_of(run))
    runs, expected_runs = (sorted(file.parent for file in at.rglob("trace.npz")) for at in (folder, expected))
    for run, expected_run in zip(runs, expected_runs, strict=True):
        assert differences(run, expected_run) == []
    if kind == "a sweep":
        assert judged(folder / "comparison") == judged(expected / "comparison")
