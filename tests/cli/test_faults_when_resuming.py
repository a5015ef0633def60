"""What a person sees who resumes or compares a run that something happened to: one line, or nothing and the same run,
bit for bit.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import faults
from tests.helpers.commands import compare_py, train_py
from tests.helpers.faults import SMALL, files_of, succeeds, the_error
from tests.helpers.runs import differences, scalars

Damage = Callable[[Path], None]
DAMAGES = [faults.cut_short, faults.empty, faults.flip_a_byte, faults.make_unreadable]
IS_KEPT = "what was trained is kept, to go on: python train.py resume=RUN"
WRONG_CHECKSUM = "is damaged (wrong checksum, or an older version)"
OF_ANOTHER_VERSION = "is of version 1, this xent reads 5"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert succeeds(train_py(*SMALL, f"hydra.run.dir={folder}"))
    return folder


@pytest.fixture
def killed(finished: Path, tmp_path: Path) -> Path:
    """A run that was killed after its last checkpoint, of step 8; the one before it is of step 4."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "trace.npz").unlink()
    return tmp_path / "run"


def refusal(run: Path, *arguments: str) -> str:
    """The line of a refused command, which changes no file of a run."""
    before = files_of(run)
    line = the_error(train_py(*arguments), run)
    assert files_of(run) == before
    return line


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (faults.cut_short, WRONG_CHECKSUM),
        (faults.empty, WRONG_CHECKSUM),
        (faults.make_unreadable, "is damaged ([Errno 21] Is a directory"),
        (faults.make_malicious, "is damaged (Weights only load failed"),
        (faults.make_older, OF_ANOTHER_VERSION),
    ],
)
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
    damage: Damage, reason: str, killed: Path, finished: Path
) -> None:
    damage(killed / "checkpoint.pt")
    line = the_error(train_py(f"resume={killed}"), killed, code=0)
    assert line.startswith(f"RUN/checkpoint.pt {reason}")
    assert line.endswith(": it is now checkpoint.damaged, going back to step 4, checkpoint.previous.pt")
    assert (killed / "checkpoint.damaged").exists()
    assert differences(finished, killed) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_resumes_from_the_checkpoint_before_the_last_and_reads_nothing_else(
    damage: Damage, killed: Path, finished: Path
) -> None:
    """Damaged events cost it the curves before: TensorBoard reads them. The settings are in the checkpoint."""
    (killed / "checkpoint.pt").unlink()
    (events,) = killed.glob("events*")
    damage(events)
    (killed / ".hydra" / "config.yaml").write_text("")
    (killed / ".hydra" / "overrides.yaml").write_text("- seed=1")
    assert succeeds(train_py(f"resume={killed}"))
    events.rename(killed / "damaged")
    assert differences(finished, killed) == ["scalars"]
    whole = scalars(finished)
    assert scalars(killed) == {tag: [point for point in points if point[0] > 4] for tag, points in whole.items()}


def test_a_run_without_a_checkpoint_that_can_be_read_is_left_as_it_is(killed: Path) -> None:
    checkpoints = [killed / "checkpoint.pt", killed / "checkpoint.previous.pt"]
    for damage, reason in ((faults.make_older, OF_ANOTHER_VERSION), (faults.flip_a_byte, WRONG_CHECKSUM)):
        for file in checkpoints:
            damage(file)
        both = "; ".join(f"RUN/{file.name} {reason}" for file in checkpoints)
        assert refusal(killed, f"resume={killed}") == f"{both}: train the run again in another folder"
    for file in checkpoints:
        file.unlink()
    expected = "resume=RUN: no checkpoint.pt is there, expected the folder of a run"
    assert refusal(killed, f"resume={killed}") == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("file", ["checkpoint.pt", "trace.npz"])
def test_a_full_disk(file: str, killed: Path, finished: Path) -> None:
    (killed / "checkpoint.pt").unlink()  # so that it resumes from step 4
    (killed / f"{file}.part").symlink_to("/dev/full")
    expected = f"cannot write RUN/{file} (No space left on device): make room there; {IS_KEPT}"
    assert the_error(train_py(f"resume={killed}"), killed, code=1) == expected
    assert succeeds(train_py(f"resume={killed}")), "there is room again"
    assert differences(finished, killed) == []


def test_two_at_once(killed: Path) -> None:
    with (killed / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        expected = "another process trains in RUN: wait for it, or give another folder"
        assert refusal(killed, f"resume={killed}") == expected


def test_what_cannot_be_resumed(killed: Path) -> None:
    for settings, change in {
        "seed=3": "seed=0, not 3",
        "max_steps=9": "max_steps=8, not 9",
        "epochs=1": "epochs=2, not 1",
        "loss=scratch": "loss=torch, not scratch, loss._target_=torch.nn.CrossEntropyLoss, not "
        "xent.CrossEntropyLossFromScratch",
    }.items():
        expected = f"RUN holds a run with {change}: give its settings, or another folder"
        assert refusal(killed, f"resume={killed}", settings) == expected
    nowhere = "resume=nowhere: there is no such folder, expected the folder of a run"
    assert refusal(killed, "resume=nowhere") == nowhere
    a_sweep = "resume=RUN: a sweep is finished by its own command with hydra.sweep.dir=FOLDER"
    assert refusal(killed, "-m", f"resume={killed}", "seed=0,1") == a_sweep
    (killed / "multirun.yaml").write_text("")
    assert refusal(killed, f"resume={killed}") == a_sweep


def test_a_finished_run_is_left_as_it_is(finished: Path) -> None:
    before = files_of(finished)
    result = train_py(f"resume={finished}")
    assert result.stdout == f"{os.path.relpath(finished)} is finished, after 8 steps\n"
    assert refusal(finished, f"resume={finished}", "seed=3").startswith("RUN holds a run with seed=0, not 3: ")
    assert files_of(finished) == before


def test_a_custom_loss_is_given_again(tmp_path: Path) -> None:
    """What a checkpoint names is not imported on its word."""
    target = "loss._target_=xent.CrossEntropyLossFromScratch"
    assert succeeds(train_py(*SMALL, "loss=custom", target, f"hydra.run.dir={tmp_path}"))
    expected = f"resume=RUN: that run was given {target}; if you trust it, give it again"
    assert refusal(tmp_path, f"resume={tmp_path}") == expected
    assert "is finished, after 8 steps" in train_py(f"resume={tmp_path}", target).stdout


def hide_a_bomb(trace: Path) -> None:
    with np.load(trace) as arrays:
        np.savez(trace, **dict(arrays) | {"losses": np.array([faults.Bomb()], dtype=object)})


@pytest.mark.parametrize("damage", [*DAMAGES, hide_a_bomb])
def test_a_damaged_trace_is_not_compared(damage: Damage, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    damage(run / "trace.npz")
    line = the_error(compare_py(run, finished), run)
    assert line.startswith("RUN/trace.npz cannot be read (") and line.endswith("): train the run again")
    assert ("allow_pickle=False" in line) == (damage is hide_a_bomb)
