"""A run that something happened to is resumed, or compared, with one line, or with none and bit for bit."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from errno import ENOSPC
from functools import partial
from hashlib import sha256
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from tests.helpers.commands import PROJECT, compare_py, files_of, run_of, small, succeeds, the_line, train_py
from tests.helpers.runs import differences, scalars
from train import train
from xent.recording.output import outlive_readers
from xent.training.checkpoint import DIGEST

SMALL = small(log_every=1, checkpoint_every=4)
WRONG_CHECKSUM, OLDER = "is damaged (wrong checksum, or an older version)", "is of version 1, this xent reads 5"
Damage = Callable[[Path], None]


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def make_unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()  # which not even root can read as a file


class Bomb:
    """What ends the process when it is unpickled, with an exit code that no test expects."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return sys.exit, (99,)


def change(checkpoint: Path, **values: object) -> None:
    """Change values of a checkpoint, with the checksum that is right then."""
    saved = torch.load(BytesIO(checkpoint.read_bytes()[:-DIGEST]), weights_only=True)
    content = BytesIO()
    torch.save(saved | values, content)
    checkpoint.write_bytes(content.getvalue() + sha256(content.getvalue()).digest())


make_older = partial(change, version=1)
DAMAGES = [cut_short, empty, flip_a_byte, make_unreadable]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    succeeds(*SMALL, f"hydra.run.dir={folder}")
    return folder


@pytest.fixture
def killed(finished: Path, tmp_path: Path) -> Path:
    """A run that was killed after its last checkpoint, of step 8; the one before it is of step 4."""
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "trace.npz").unlink()
    return run


def refusal(run: Path, *arguments: str) -> str:
    """The line of a refused command, by default one that resumes a run, which changes no file of the run."""
    before = files_of(run)
    line = the_line(train_py(*arguments or [f"resume={run}"]), run)
    assert files_of(run) == before
    return line


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_short, WRONG_CHECKSUM),
        (empty, WRONG_CHECKSUM),
        (make_unreadable, "is damaged ([Errno 21] Is a directory"),
        (partial(change, model=Bomb()), "is damaged (Weights only load failed"),
        (make_older, OLDER),
    ],
)
def test_a_run_goes_back_from_a_damaged_checkpoint(damage: Damage, reason: str, killed: Path, finished: Path) -> None:
    damage(killed / "checkpoint.pt")
    line = the_line(train_py(f"resume={killed}"), killed, code=0)
    assert line.startswith(f"RUN/checkpoint.pt {reason}")
    assert line.endswith(": it is now checkpoint.damaged, going back to step 4, checkpoint.previous.pt")
    assert (killed / "checkpoint.damaged").exists()
    assert differences(finished, killed) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_resumes_from_its_checkpoint_and_reads_nothing_else(damage: Damage, killed: Path, finished: Path) -> None:
    """Damaged events cost it the curves before: TensorBoard reads them. The settings are in the checkpoint."""
    (killed / "checkpoint.pt").unlink()
    (events,) = killed.glob("events*")
    damage(events)
    (killed / ".hydra" / "config.yaml").write_text("")
    (killed / ".hydra" / "overrides.yaml").write_text("- seed=1")
    succeeds(f"resume={killed}")
    events.rename(killed / "damaged")
    assert differences(finished, killed) == ["scalars"]
    whole = scalars(finished)
    assert scalars(killed) == {tag: [point for point in points if point[0] > 4] for tag, points in whole.items()}


def test_a_run_without_a_checkpoint_that_can_be_read_is_left_as_it_is(killed: Path) -> None:
    checkpoints = [killed / "checkpoint.pt", killed / "checkpoint.previous.pt"]
    for damage, reason in ((make_older, OLDER), (flip_a_byte, WRONG_CHECKSUM)):
        for file in checkpoints:
            damage(file)
        both = f"RUN/checkpoint.pt {reason}; RUN/checkpoint.previous.pt {reason}"
        assert refusal(killed) == f"{both}: train the run again in another folder"
    for file in checkpoints:
        file.unlink()
    assert refusal(killed) == "resume=RUN: no checkpoint.pt is there, expected the folder of a run"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("file", ["checkpoint.pt", "trace.npz"])
def test_a_full_disk(file: str, killed: Path, finished: Path) -> None:
    (killed / "checkpoint.pt").unlink()  # so that it resumes from step 4
    (killed / f"{file}.part").symlink_to("/dev/full")
    expected = (
        f"cannot write RUN/{file} (No space left on device): make room there; what was trained is kept, to go on: "
    )
    assert the_line(train_py(f"resume={killed}"), killed, code=1) == f"{expected}python train.py resume=RUN"
    succeeds(f"resume={killed}")  # there is room again
    assert differences(finished, killed) == []


def test_a_finished_run_and_what_cannot_be_resumed_are_left_as_they_are(killed: Path, finished: Path) -> None:
    before = files_of(finished)
    assert succeeds(f"resume={finished}") == f"{os.path.relpath(finished)} is finished, after 8 steps\n"
    assert files_of(finished) == before
    loss = "loss=torch, not scratch, loss._target_=torch.nn.CrossEntropyLoss, not xent.CrossEntropyLossFromScratch"
    differs = {"max_steps=9": "max_steps=8, not 9", "epochs=1": "epochs=2, not 1", "loss=scratch": loss}
    for setting, difference in differs.items():
        line = refusal(killed, f"resume={killed}", setting)
        assert line == f"RUN holds a run with {difference}: give its settings, or another folder"
    assert refusal(finished, f"resume={finished}", "seed=3").startswith("RUN holds a run with seed=0, not 3: ")
    line = refusal(killed, "resume=nowhere")
    assert line == "resume=nowhere: there is no such folder, expected the folder of a run"
    with (killed / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refusal(killed) == "another process trains in RUN: wait for it, or give another folder"
    a_sweep = "resume=RUN: a sweep is finished by its own command with hydra.sweep.dir=FOLDER"
    assert refusal(killed, "-m", f"resume={killed}", "seed=0,1") == a_sweep
    (killed / "multirun.yaml").write_text("")
    assert refusal(killed) == a_sweep


def test_a_custom_loss_is_given_again(tmp_path: Path) -> None:
    """What a checkpoint names is not imported on its word."""
    target = "loss._target_=xent.CrossEntropyLossFromScratch"
    succeeds(*SMALL, "loss=custom", target, f"hydra.run.dir={tmp_path}")
    assert refusal(tmp_path) == f"resume=RUN: that run was given {target}; if you trust it, give it again"
    assert "is finished, after 8 steps" in succeeds(f"resume={tmp_path}", target)


def hide_a_bomb(trace: Path) -> None:
    with np.load(trace) as arrays:
        np.savez(trace, **dict(arrays) | {"losses": np.array([Bomb()], dtype=object)})


@pytest.mark.parametrize("damage", [*DAMAGES, hide_a_bomb])
def test_a_damaged_trace_is_not_compared(damage: Damage, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    damage(run / "trace.npz")
    line = the_line(compare_py(run, finished), run)
    assert line.startswith("RUN/trace.npz cannot be read (") and line.endswith("): train the run again")
    assert ("allow_pickle=False" in line) == (damage is hide_a_bomb)


def cut_within_a_key(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"_size:")])


@pytest.mark.parametrize(
    ("file", "damage", "begins", "ends"),
    [
        ("train.yaml", empty, "model has no default: write +model=...", ""),
        ("train.yaml", cut_within_a_key, "a file in configs/ cannot be read (while scanning ", "): get it back"),
        ("train.yaml", make_unreadable, "Cannot find primary config 'train'. ", "it's in your config search path."),
        ("loss/torch.yaml", empty, "RUN/loss/torch.yaml has no _target_: expected the name of a class or function", ""),
        ("loss/torch.yaml", flip_a_byte, "a file in configs/ cannot be read (", "): get it back"),
        ("model/mlp.yaml", Path.unlink, "model=mlp: expected one of cnn, resnet", ""),
    ],
)
def test_a_damaged_configuration_is_refused(
    file: str, damage: Damage, begins: str, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT / "train.py", tmp_path)
    configs = shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    damage(configs / file)
    monkeypatch.setattr("tests.helpers.commands.PROJECT", tmp_path)
    line = the_line(train_py(*small(), f"data.root={PROJECT / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"), configs)
    assert line.startswith(begins) and line.endswith(ends)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("unwritable", "says"), [("a pipe", ""), ("/dev/full", "standard output cannot be written (No")]
)
def test_output_that_nobody_reads_stops_nothing(
    unwritable: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with `| head`, and with a disk that is full; it is said where there is something to do."""
    reader, writer = os.pipe()
    os.close(reader)
    descriptor = writer if unwritable == "a pipe" else os.open(unwritable, os.O_WRONLY)
    buffering = 0 if unwritable == "a pipe" else -1  # it fails when it is written, or when it is flushed
    with TextIOWrapper(os.fdopen(descriptor, "wb", buffering), write_through=True) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        outlive_readers()
        for _ in range(3):
            print("result", flush=True)
        train(run_of(tmp_path, *SMALL))
        assert sys.stdout.fileno() == descriptor, "what is asked of the stream still is the stream's"
    assert (tmp_path / "trace.npz").exists()
    errors = capfd.readouterr().err
    assert errors.startswith(says) and len(errors.splitlines()) == bool(says)


def test_a_name_that_the_terminal_cannot_show_is_shown_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    content = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(content, encoding="ascii"))
    outlive_readers()
    print("outputs/ünï", flush=True)
    assert content.getvalue() == b"outputs/\\xfcn\\xef\n"


@pytest.mark.parametrize("arguments", [SMALL, ["-m", "seed=0,1", *SMALL]], ids=["a run", "a sweep"])
def test_a_disk_that_is_full_at_the_start(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> NoReturn:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr("omegaconf.OmegaConf.save", full)
    kind = "sweep" if "-m" in arguments else "run"
    line = the_line(train_py(*arguments, f"hydra.{kind}.dir={tmp_path}"), tmp_path, code=1 if kind == "run" else 2)
    assert "No space left on device" in line and "make room there" in line


def test_a_run_whose_settings_hold_nan_resumes(tmp_path: Path) -> None:
    weights = "+loss.weight=[nan,1,1,1,1,1,1,1,1,inf]"
    run = [weights, "on_nonfinite=continue", *SMALL, f"hydra.run.dir={tmp_path}"]
    expected = succeeds(*run).partition(" in ")[0].splitlines()[-1]
    (tmp_path / "trace.npz").unlink()
    assert expected in succeeds(f"resume={tmp_path}") and expected.startswith("test loss nan")
