"""What a person sees who goes on with a run that something happened to: one line, or nothing and the same run.

A run that goes on is held to be, bit for bit, what it would have been.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers.commands import PROJECT, command
from tests.helpers.faults import (
    SMALL,
    Fault,
    check,
    cut_short,
    deleted,
    emptied,
    flipped_in_a_byte,
    given_a_target_to_import,
    inflict,
    made_malicious,
    made_unreadable,
    name_of,
    of_an_older_version,
    replaced_by_another_runs,
)
from tests.helpers.runs import differences

FAULTS = [
    Fault(
        "checkpoint.pt",
        cut_short,
        "{run}/checkpoint.pt is damaged (File is not a zip file): it is now checkpoint.damaged, "
        "going back to step 4, checkpoint.previous.pt",
        exits_with=0,
    ),
    Fault(
        "checkpoint.pt",
        emptied,
        "{run}/checkpoint.pt is damaged (File is not a zip file): it is now checkpoint.damaged, "
        "going back to step 4, checkpoint.previous.pt",
        exits_with=0,
    ),
    Fault(
        "checkpoint.pt",
        flipped_in_a_byte,
        "{run}/checkpoint.pt is damaged (...): it is now checkpoint.damaged, "
        "going back to step 4, checkpoint.previous.pt",
        exits_with=0,
    ),
    Fault(
        "checkpoint.pt",
        made_unreadable,
        "{run}/checkpoint.pt is damaged (...Is a directory...): it is now checkpoint.damaged, "
        "going back to step 4, checkpoint.previous.pt",
        exits_with=0,
    ),
    Fault(
        "checkpoint.pt",
        made_malicious,
        "{run}/checkpoint.pt is damaged (Weights only load failed...): it is now checkpoint.damaged, "
        "going back to step 4, checkpoint.previous.pt",
        exits_with=0,
    ),
    Fault(
        "checkpoint.pt",
        replaced_by_another_runs,
        "{run}/events.out.tfevents... is damaged or not of this run: get it back, or delete all events.out.* "
        "there to go on without the curves of the steps before",
        exits_with=2,
    ),
    Fault(
        "checkpoint.pt",
        given_a_target_to_import,
        "resume={run}: that run was given loss._target_=os.abort; if you trust it, give it again",
        exits_with=2,
    ),
    Fault(
        "checkpoint*.pt",
        flipped_in_a_byte,
        "{run}/checkpoint.pt is damaged (...); {run}/checkpoint.previous.pt is damaged (...): "
        "train the run again in another folder",
        exits_with=2,
    ),
    Fault(
        "checkpoint*.pt",
        of_an_older_version,
        "{run}/checkpoint.pt is of version 1, this xent reads 4; "
        "{run}/checkpoint.previous.pt is of version 1, this xent reads 4: train the run again in another folder",
        exits_with=2,
    ),
    Fault(
        "checkpoint*.pt",
        deleted,
        "resume={run}: no checkpoint.pt is there, expected the folder of a run",
        exits_with=2,
    ),
    *(
        Fault(
            "events*",
            happens,
            "{run}/events.out.tfevents... is damaged or not of this run: get it back, or delete all "
            "events.out.* there to go on without the curves of the steps before",
            exits_with=2,
        )
        for happens in (cut_short, emptied, flipped_in_a_byte, made_unreadable, replaced_by_another_runs)
    ),
    Fault("checkpoint.pt", deleted, "", exits_with=0),
    # These are for people to read: the settings are in the checkpoint.
    Fault(".hydra/config.yaml", emptied, "", exits_with=0),
    Fault(".hydra/overrides.yaml", replaced_by_another_runs, "", exits_with=0),
]


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_a_damaged_file(fault: Fault, killed: Path, finished: Path) -> None:
    inflict(fault, killed)
    check(command("train.py", f"resume={killed}"), fault.says, fault.exits_with, killed)
    if fault.exits_with == 0:
        assert differences(finished / "run", killed) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("file", ["checkpoint.pt", "trace.npz"])
def test_a_full_disk(file: str, killed: Path, finished: Path) -> None:
    (killed / "checkpoint.pt").unlink()  # so that it goes on from step 4
    (killed / f"{file}.part").symlink_to("/dev/full")
    says = (
        f"cannot write {{run}}/{file} (No space left on device): it needs ... MB, and ... MB are free there; "
        "make room; what was trained is kept, to go on: python train.py resume=...run"
    )
    check(command("train.py", f"resume={killed}"), says, 1, killed)
    check(command("train.py", f"resume={killed}"), "", 0, killed)  # there is room again
    assert differences(finished / "run", killed) == []


def test_no_room_for_events(tmp_path: Path) -> None:
    """Under a limit on the size of files, which checkpoints of so small a model keep."""
    run = tmp_path / "run"
    many = [*SMALL, "model.width=1", "max_steps=400", "checkpoint_every=1000", f"hydra.run.dir={run}"]
    limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", sys.executable, "train.py", *many]
    result = subprocess.run(limited, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    says = (
        "cannot write {run}/events... (File too large): it needs 0.0 MB, and ... MB are free there; make room; "
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
        (
            "-m resume={run} seed=0,1",
            "resume={run}: a sweep is finished by its own command with hydra.sweep.dir={run}",
        ),
    ],
)
def test_what_cannot_be_resumed(arguments: str, says: str, killed: Path) -> None:
    check(command("train.py", *arguments.replace("{run}", str(killed)).split()), says, 2, killed)


def test_a_custom_loss_is_given_again(tmp_path: Path) -> None:
    """What a checkpoint names is not imported on its word."""
    run = tmp_path / "run"
    target = "loss._target_=xent.CrossEntropyLossFromScratch"
    assert command("train.py", *SMALL, "loss=custom", target, f"hydra.run.dir={run}").returncode == 0
    says = f"resume={{run}}: that run was given {target}; if you trust it, give it again"
    check(command("train.py", f"resume={run}"), says, 2, run)
    result = command("train.py", f"resume={run}", target)
    assert result.stdout == f"{run} is finished, after 8 steps\n", result.stderr
