"""Every fault that was thought of, and what a person sees: the real command, and its last line of errors.

In the lines, {run} is the folder of a run that was killed after its last checkpoint, at step 8; the one before it is of
step 4. A run that goes on is held to be, bit for bit, what it would have been.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import PROJECT, command, small
from filelock import FileLock
from runs import differences

from xent.published import read

DATA = f"data.root={PROJECT / 'data'}"
SMALL = [*small(log_every=1, checkpoint_every=4), DATA]

Damage = Callable[[Path], object]


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_within_a_key(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"_size:")])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()  # which not even root can read as a file


def deleted(file: Path) -> None:
    file.unlink()


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.evidence}",)


def malicious(file: Path) -> None:
    bomb = Malicious(file.parent / "evidence")
    if file.suffix == ".pt":
        torch.save({"version": 1, "model": bomb}, file)
    else:
        with np.load(file) as arrays:
            np.savez(file, **dict(arrays) | {"losses": np.array([bomb], dtype=object)})


def with_a_target(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    torch.save(saved | {"overrides": [*saved["overrides"], "loss._target_=os.abort"]}, file)


def of_the_labels(file: Path) -> None:
    shutil.copy(file.with_name("t10k-labels-idx1-ubyte"), file)


def of_another_run(file: Path) -> None:
    run = next(parent for parent in file.parents if parent.name == "run")
    others = (run.parent / "other" / file.parent.relative_to(run)).glob(f"{file.name.partition('.')[0]}*")
    shutil.copy(max(others), file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of two runs, `run` and `other`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("run", 0), ("other", 1)):
        result = command("train.py", *SMALL, f"seed={seed}", f"hydra.run.dir={folder / name}")
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run that was killed before it wrote its trace, beside another."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run" / "trace.npz").unlink()
    return tmp_path / "run"


BACK = "it is now checkpoint.damaged, going back to step 4, checkpoint.previous.pt"
NO_ZIP = "File is not a zip file"
EVENTS = r"{run}/events\.out\.tfevents\..* is damaged or not of this run: get it back, or delete all "
EVENTS += r"events\.out\.tfevents\.\* there to go on without the curves of the steps before"
AGAIN = "train the run again"


class Fault(NamedTuple):
    """A file of a run, what happens to it, the last line of errors, in which .* stands for anything, and the exit code.

    With exit 0, the run goes on to what it would have been.
    """

    file: str
    happens: Damage
    line: str
    exit: int


RESUMED = [
    Fault("checkpoint.pt", cut_short, rf"{{run}}/checkpoint\.pt is damaged \({NO_ZIP}\): {BACK}", 0),
    Fault("checkpoint.pt", emptied, rf"{{run}}/checkpoint\.pt is damaged \({NO_ZIP}\): {BACK}", 0),
    Fault("checkpoint.pt", flipped, rf"{{run}}/checkpoint\.pt is damaged \(.*\): {BACK}", 0),
    Fault("checkpoint.pt", unreadable, rf"{{run}}/checkpoint\.pt is damaged \(.*Is a directory.*\): {BACK}", 0),
    Fault("checkpoint.pt", deleted, "", 0),
    Fault("checkpoint.pt", malicious, rf"{{run}}/checkpoint\.pt is damaged \(Weights only load failed.*\): {BACK}", 0),
    Fault("checkpoint.pt", of_another_run, EVENTS, 2),
    Fault("checkpoint.pt", with_a_target, "resume={run}: that run was given loss._target_=os.abort; .*", 2),
    Fault(
        "checkpoint*.pt",
        flipped,
        rf"{{run}}/checkpoint.*; {{run}}/checkpoint.* is damaged .*: {AGAIN} in another folder",
        2,
    ),
    Fault("checkpoint*.pt", deleted, r"resume={run}: no checkpoint\.pt is there, expected the folder of a run", 2),
    Fault("events*", cut_short, EVENTS, 2),
    Fault("events*", emptied, EVENTS, 2),
    Fault("events*", flipped, EVENTS, 2),
    Fault("events*", unreadable, EVENTS, 2),
    Fault("events*", of_another_run, EVENTS, 2),
    Fault(".hydra/config.yaml", emptied, "", 0),  # for people to read: the settings are in the checkpoint
    Fault(".hydra/overrides.yaml", of_another_run, "", 0),
]


def inflict(fault: Fault, run: Path) -> None:
    files = list(run.glob(fault.file))
    assert files
    for file in files:
        fault.happens(file)


def check(result: subprocess.CompletedProcess[str], line: str, code: int, run: Path) -> None:
    assert "Traceback" not in result.stdout + result.stderr
    assert result.returncode == code, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == bool(line), lines
    assert not lines or re.fullmatch(line.replace("{run}", re.escape(str(run))), lines[0]), lines
    assert not (run / "evidence").exists(), "the file ran code"


def name(value: object) -> str:
    return f"{value.file} {value.happens.__name__}".replace("_", " ") if isinstance(value, Fault) else str(value)


@pytest.mark.parametrize("fault", RESUMED, ids=name)
def test_resuming(fault: Fault, run: Path, finished: Path) -> None:
    inflict(fault, run)
    check(command("train.py", f"resume={run}"), fault.line, fault.exit, run)
    if fault.exit == 0:
        assert differences(finished / "run", run) == []


COMPARED = [
    Fault("trace.npz", cut_short, rf"{{run}}/trace\.npz cannot be read \(.*\): {AGAIN}", 2),
    Fault("trace.npz", emptied, rf"{{run}}/trace\.npz cannot be read \(.*\): {AGAIN}", 2),
    Fault("trace.npz", flipped, rf"{{run}}/trace\.npz cannot be read \(.*\): {AGAIN}", 2),
    Fault("trace.npz", unreadable, rf"{{run}}/trace\.npz cannot be read \(.*\): {AGAIN}", 2),
    Fault("trace.npz", malicious, rf"{{run}}/trace\.npz cannot be read \(.*allow_pickle=False.*\): {AGAIN}", 2),
    Fault("trace.npz", of_another_run, rf"{{run}}/trace\.npz is of another run than events.* beside it: {AGAIN}", 2),
    Fault("trace.npz", deleted, r"{run} is not finished: go on with it, python train\.py resume=.*run", 2),
]


@pytest.mark.parametrize("fault", COMPARED, ids=name)
def test_comparing(fault: Fault, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    inflict(fault, run)
    check(command("-m", "xent.compare", str(run), str(tmp_path / "other")), fault.line, fault.exit, run)


DELETE = "delete it, it will be unpacked again"
DATA_FILES = [
    Fault(
        "train-images*.gz",
        cut_short,
        r"{run}.*\.gz is damaged: its MD5 is .*, published was .*; delete it and get .*",
        2,
    ),
    Fault("train-images*ubyte", cut_short, rf"{{run}}.*-ubyte is not what train-images.*\.gz holds: {DELETE}", 2),
    Fault("train-labels*ubyte", flipped, rf"{{run}}.*-ubyte is not what train-labels.*\.gz holds: {DELETE}", 2),
    Fault("t10k-images*ubyte", emptied, rf"{{run}}.*-ubyte is not what t10k-images.*\.gz holds: {DELETE}", 2),
    Fault("t10k-images*ubyte", of_the_labels, rf"{{run}}.*-ubyte is not what t10k-images.*\.gz holds: {DELETE}", 2),
    Fault(
        "t10k-images*.gz",
        unreadable,
        r"MNIST in .* cannot be read \(.*t10k.*\.gz'\): delete its folder and run again",
        2,
    ),
]


@pytest.mark.parametrize("fault", DATA_FILES, ids=name)
def test_reading_data(fault: Fault, tmp_path: Path) -> None:
    data = shutil.copytree(PROJECT / "data", tmp_path / "data")
    read("MNIST", data)  # which unpacks it
    inflict(fault, data / "MNIST" / "raw")
    check(
        command("train.py", *small(), f"data.root={data}", f"hydra.run.dir={tmp_path / 'run'}"),
        fault.line,
        fault.exit,
        data,
    )
    assert not (tmp_path / "run").exists()


CONFIGS = [
    Fault("train.yaml", emptied, "Could not override 'model'. No match in the defaults list. .*", 2),
    Fault("train.yaml", cut_within_a_key, r"{run}/train\.yaml cannot be read \(while scanning .*\): get it back", 2),
    Fault(
        "train.yaml", unreadable, "Cannot find primary config 'train'. Check that it's in your config search path.", 2
    ),
    Fault("loss/torch.yaml", emptied, r"configs/loss/torch\.yaml has no _target_: get it back", 2),
    Fault("loss/torch.yaml", flipped, r"{run}/loss/torch\.yaml cannot be read \(.*\): get it back", 2),
    Fault(
        "model/mlp.yaml", deleted, "In 'train': Could not find 'model/mlp' Available options in 'model': cnn resnet", 2
    ),
]


@pytest.mark.parametrize("fault", CONFIGS, ids=name)
def test_configuring(fault: Fault, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "train.py", tmp_path)
    configs = shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    inflict(fault, configs)
    check(command(str(tmp_path / "train.py"), *SMALL, cwd=tmp_path), fault.line, fault.exit, configs)
    assert not list(tmp_path.glob("outputs/*"))


KEPT = r"; what was trained is kept, to go on: python train\.py resume=.*run"
FULL = r"\(No space left on device\): it needs \d+\.\d MB, and .* MB are free there; make room" + KEPT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("checkpoint.pt.part", rf"cannot write {{run}}/checkpoint\.pt {FULL}"),
        ("trace.npz.part", rf"cannot write {{run}}/trace\.npz {FULL}"),
    ],
)
def test_a_full_disk(part: str, line: str, run: Path, finished: Path) -> None:
    (run / "checkpoint.pt").unlink()  # so that it goes on from step 4
    (run / part).symlink_to("/dev/full")
    check(command("train.py", f"resume={run}"), line, 1, run)
    check(command("train.py", f"resume={run}"), "", 0, run)  # there is room again
    assert differences(finished / "run", run) == []


def test_no_room_for_events(tmp_path: Path) -> None:
    """Under a limit on the size of files, which checkpoints of so small a model keep."""
    run = tmp_path / "run"
    many = [*SMALL, "model.width=1", "max_steps=400", "checkpoint_every=1000", f"hydra.run.dir={run}"]
    limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", sys.executable, "train.py", *many]
    result = subprocess.run(limited, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    line = r"cannot write {run}/events.* \(File too large\): it needs 0.0 MB, and .* MB are free there; make room"
    check(result, line + KEPT, 1, run)
    check(command("train.py", f"resume={run}"), "", 0, run)


NUMBERS = r"learning rate \S+, largest logit \S+, largest gradient \S+; the batch is in {run}/nonfinite\.pt; "
WHAT_TO_DO = "train with a smaller optimizer.lr, or with on_nonfinite=continue"
TRAINED = {
    "NaN": (["optimizer.lr=1e30"], rf"the loss is nan at step 2: {NUMBERS}{WHAT_TO_DO}{KEPT}", 1),
    "NaN, go on": (["optimizer.lr=1e30", "on_nonfinite=continue"], "", 0),
    "too little memory": (
        ["loss=custom", "loss._target_=faults.OutOfMemory"],
        rf"batch_size=128 does not fit into the memory of cpu: try batch_size=64{KEPT}",
        1,
    ),
    "nothing learned": (
        ["optimizer.lr=1e-30", "batch_size=2000", "max_steps=30"],
        "the loss did not fall in 30 steps: this training learns nothing",
        0,
    ),
}


@pytest.mark.parametrize("what", TRAINED)
def test_training(what: str, tmp_path: Path) -> None:
    overrides, line, code = TRAINED[what]
    run = tmp_path / "run"
    tests = str(PROJECT / "tests")
    result = command("train.py", *SMALL, *overrides, f"hydra.run.dir={run}", PYTHONPATH=tests)
    check(result, line, code, run)
    if what == "NaN":
        saved = torch.load(run / "nonfinite.pt", weights_only=True)
        assert saved["step"] == 2
        assert (saved["images"].shape, saved["target"].shape) == ((128, 1, 28, 28), (128,))
        assert not saved["loss"].isfinite()
        check(command("train.py", f"resume={run}", "on_nonfinite=continue"), "", 0, run)


def test_two_at_once(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with FileLock(run / ".lock"):
        line = "another process trains in {run}: wait for it, or give another folder"
        check(command("train.py", f"resume={run}"), line, 2, run)
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


RESUME = {
    "a folder that is not there": (
        "resume=nowhere",
        "resume=nowhere: there is no such folder, expected the folder of a run",
        2,
    ),
    "another seed": (
        "resume={run} seed=3",
        "{run} holds a run with seed=0, not 3: give its settings, or another folder",
        2,
    ),
    "a sweep": ("-m resume={run} seed=0,1", "resume={run}: a sweep is finished by its own command with .*", 2),
    "more epochs of so many steps": (
        "resume={run} max_steps=9",
        "{run} holds a run with max_steps=8, not 9: give .*",
        2,
    ),
}


@pytest.mark.parametrize("what", RESUME)
def test_what_cannot_be_resumed(what: str, run: Path) -> None:
    arguments, line, code = RESUME[what]
    check(command("train.py", *arguments.replace("{run}", str(run)).split()), line, code, run)


def test_a_custom_loss_is_given_again(tmp_path: Path) -> None:
    """What a checkpoint names is not imported on its word."""
    run = tmp_path / "run"
    target = "loss._target_=xent.CrossEntropyLoss"
    assert command("train.py", *SMALL, "loss=custom", target, f"hydra.run.dir={run}").returncode == 0
    line = f"resume={{run}}: that run was given {target}; if you trust it, give it again"
    check(command("train.py", f"resume={run}"), line, 2, run)
    result = command("train.py", f"resume={run}", target)
    assert result.stdout == f"{run} is finished, after 8 steps\n", result.stderr


def test_tensorboard_is_for_this_machine_alone() -> None:
    made = subprocess.run(["make", "-n", "tensorboard"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "--host 127.0.0.1" in made.stdout
