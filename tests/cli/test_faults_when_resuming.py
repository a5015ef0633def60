"""What a person sees who resumes a run that something happened to: one line, or nothing and the same run.

A run that resumes is held to be, bit for bit, what it would have been.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers.commands import PROJECT, command, train_py
from tests.helpers.faults import (
    SMALL,
    check,
    cut_short,
    deleted,
    emptied,
    flipped_in_a_byte,
    flipped_in_its_last_byte,
    given_a_target_to_import,
    inflict,
    made_malicious,
    made_unreadable,
    name_of,
    of_an_older_version,
    replaced_by_another_runs,
)
from tests.helpers.runs import differences, scalars

Fault = Callable[[Path], object]

GOING_BACK = "it is now checkpoint.damaged, going back to step 4, checkpoint.previous.pt"
WRONG_CHECKSUM = f"{{run}}/checkpoint.pt is damaged (wrong checksum, or an older version): {GOING_BACK}"
OLDER = "{run}/checkpoint.pt is of version 1, this xent reads 5"


@pytest.mark.parametrize(
    ("file", "happens", "says"),
    [
        ("checkpoint.pt", cut_short, WRONG_CHECKSUM),
        ("checkpoint.pt", emptied, WRONG_CHECKSUM),
        ("checkpoint.pt", flipped_in_a_byte, WRONG_CHECKSUM),
        ("checkpoint.pt", flipped_in_its_last_byte, WRONG_CHECKSUM),
        ("checkpoint.pt", made_unreadable, f"{{run}}/checkpoint.pt is damaged (...Is a directory...): {GOING_BACK}"),
        (
            "checkpoint.pt",
            made_malicious,
            f"{{run}}/checkpoint.pt is damaged (Weights only load failed...): {GOING_BACK}",
        ),
        ("checkpoint.pt", of_an_older_version, f"{OLDER}: {GOING_BACK}"),
        ("checkpoint.pt", deleted, ""),
        # These are for people to read: the settings are in the checkpoint.
        (".hydra/config.yaml", emptied, ""),
        (".hydra/overrides.yaml", replaced_by_another_runs, ""),
    ],
    ids=name_of,
)
def test_a_run_resumes_as_if_nothing_had_happened(
    file: str, happens: Fault, says: str, killed: Path, finished: Path
) -> None:
    inflict(happens, killed, file)
    check(train_py(f"resume={killed}"), says, 0, killed)
    assert differences(finished / "run", killed) == []


@pytest.mark.parametrize("happens", [cut_short, emptied, flipped_in_a_byte, made_unreadable, deleted], ids=name_of)
def test_damaged_events_cost_a_run_the_curves_before_it_resumes_alone(
    happens: Fault, killed: Path, finished: Path
) -> None:
    """Nothing but TensorBoard reads them."""
    (killed / "checkpoint.pt").unlink()  # so that it resumes from step 4
    damaged = list(killed.glob("events*"))
    inflict(happens, killed, "events*")
    check(train_py(f"resume={killed}"), "", 0, killed)
    for file in filter(Path.exists, damaged):
        (shutil.rmtree if file.is_dir() else Path.unlink)(file)
    assert differences(finished / "run", killed) == ["scalars"]
    whole = scalars(finished / "run")
    assert scalars(killed) == {tag: [point for point in points if point[0] > 4] for tag, points in whole.items()}


@pytest.mark.parametrize(
    ("file", "happens", "says"),
    [
        (
            "checkpoint.pt",
            given_a_target_to_import,
            "resume={run}: that run was given loss._target_=os.abort; if you trust it, give it again",
        ),
        (
            "checkpoint*.pt",
            flipped_in_a_byte,
            "{run}/checkpoint.pt is damaged (wrong checksum, or an older version); "
            "{run}/checkpoint.previous.pt is damaged (wrong checksum, or an older version): "
            "train the run again in another folder",
        ),
        (
            "checkpoint*.pt",
            of_an_older_version,
            f"{OLDER}; {OLDER.replace('.pt', '.previous.pt')}: train the run again in another folder",
        ),
        ("checkpoint*.pt", deleted, "resume={run}: no checkpoint.pt is there, expected the folder of a run"),
    ],
    ids=name_of,
)
def test_a_run_that_cannot_resume_is_left_as_it_is(file: str, happens: Fault, says: str, killed: Path) -> None:
    inflict(happens, killed, file)
    before = {file: file.read_bytes() for file in killed.rglob("*") if file.is_file()}
    check(train_py(f"resume={killed}"), says, 2, killed)
    assert before == {file: file.read_bytes() for file in killed.rglob("*") if file.is_file()}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("file", ["checkpoint.pt", "trace.npz"])
def test_a_full_disk(file: str, killed: Path, finished: Path) -> None:
    (killed / "checkpoint.pt").unlink()  # so that it resumes from step 4
    (killed / f"{file}.part").symlink_to("/dev/full")
    says = (
        f"cannot write {{run}}/{file} (No space left on device): make room there; "
        "what was trained is kept, to go on: python train.py resume=...run"
    )
    check(train_py(f"resume={killed}"), says, 1, killed)
    check(train_py(f"resume={killed}"), "", 0, killed)  # there is room again
    assert differences(finished / "run", killed) == []


def test_no_room_for_events(tmp_path: Path) -> None:
    """Under a limit on the size of files, which checkpoints of so small a model keep."""
    run = tmp_path / "run"
    many = [*SMALL, "model.width=1", "max_steps=400", "checkpoint_every=1000", f"hydra.run.dir={run}"]
    limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", sys.executable, "train.py", *many]
    result = subprocess.run(limited, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    says = (
        "cannot write {run}/events.out.tfevents (File too large): make room there; "
        "what was trained is kept, to go on: python train.py resume=...run"
    )
    check(result, says, 1, run)
    check(command("train.py", f"resume={run}"), "", 0, run)


def test_two_at_once(killed: Path) -> None:
    before = {file: file.read_bytes() for file in killed.rglob("*") if file.is_file()}
    with FileLock(killed / ".lock"):
        says = "another process trains in {run}: wait for it, or give another folder"
        check(command("train.py", f"resume={killed}"), says, 2, killed)
    assert before == {file: file.read_bytes() for file in killed.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("resume=nowhere", "resume=nowhere: there is no such folder, expected the folder of a run"),
        ("resume={run} seed=3", "{run} holds a run with seed=0, not 3: give its settings, or another folder"),
        (
            "resume={run} max_steps=9",
            "{run} holds a run with max_steps=8, not 9: give its settings, or another folder",
        ),
        ("resume={run} epochs=1", "{run} holds a run with epochs=2, not 1: give its settings, or another folder"),
        (
            "-m resume={run} seed=0,1",
            "resume={run}: a sweep is finished by its own command with hydra.sweep.dir=FOLDER",
        ),
    ],
)
def test_what_cannot_be_resumed(arguments: str, says: str, killed: Path) -> None:
    check(train_py(*arguments.replace("{run}", str(killed)).split()), says, 2, killed)


def test_the_folder_of_a_sweep_is_not_that_of_a_run(killed: Path) -> None:
    (killed.parent / "multirun.yaml").write_text("")
    says = "resume={run}: a sweep is finished by its own command with hydra.sweep.dir=FOLDER"
    check(train_py(f"resume={killed.parent}"), says, 2, killed.parent)


def test_a_custom_loss_is_given_again(tmp_path: Path) -> None:
    """What a checkpoint names is not imported on its word."""
    run = tmp_path / "run"
    target = "loss._target_=xent.CrossEntropyLossFromScratch"
    assert train_py(*SMALL, "loss=custom", target, f"hydra.run.dir={run}").returncode == 0
    says = f"resume={{run}}: that run was given {target}; if you trust it, give it again"
    check(train_py(f"resume={run}"), says, 2, run)
    result = train_py(f"resume={run}", target)
    assert result.stdout == f"{os.path.relpath(run)} is finished, after 8 steps\n", result.stderr
