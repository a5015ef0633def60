"""What can happen to the files of a run, and what a person then sees."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import numpy as np
import torch

from tests.helpers.commands import PROJECT, small

DATA = f"data.root={PROJECT / 'data'}"
SMALL = [*small(log_every=1, checkpoint_every=4), DATA]


class Fault(NamedTuple):
    """A file, what happens to it, the one line of errors that follows, and the exit code.

    In the line `{run}` is the folder of the run, and `...` stands for anything. An empty line: nothing is said.
    """

    file: str
    happens: Callable[[Path], object]
    says: str
    exits_with: int


def name_of(value: object) -> str:
    """The name of a test of a fault: `checkpoint.pt cut short`."""
    return f"{value.file} {value.happens.__name__}".replace("_", " ") if isinstance(value, Fault) else str(value)


def inflict(fault: Fault, folder: Path) -> None:
    files = list(folder.glob(fault.file))
    assert files
    for file in files:
        fault.happens(file)


def check(result: CompletedProcess[str], says: str, exits_with: int, run: Path) -> None:
    """The command ended as a person was promised."""
    assert "Traceback" not in result.stdout + result.stderr
    assert result.returncode == exits_with, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == bool(says), lines
    expected = re.escape(says.replace("{run}", str(run))).replace(re.escape("..."), ".*")
    assert not lines or re.fullmatch(expected, lines[0]), lines
    assert not (run / "evidence").exists(), "the file ran code"


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_within_a_key(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"_size:")])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped_in_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def made_unreadable(file: Path) -> None:
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


def made_malicious(file: Path) -> None:
    bomb = Malicious(file.parent / "evidence")
    if file.suffix == ".pt":
        torch.save({"version": 2, "model": bomb}, file)
    else:
        with np.load(file) as arrays:
            np.savez(file, **dict(arrays) | {"losses": np.array([bomb], dtype=object)})


def given_a_target_to_import(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    torch.save(saved | {"overrides": [*saved["overrides"], "loss._target_=os.abort"]}, file)


def of_an_older_version(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    torch.save(saved | {"version": 1}, file)


def replaced_by_the_labels(file: Path) -> None:
    shutil.copy(file.with_name("t10k-labels-idx1-ubyte"), file)


def replaced_by_another_runs(file: Path) -> None:
    run = next(parent for parent in file.parents if parent.name == "run")
    others = (run.parent / "other" / file.parent.relative_to(run)).glob(f"{file.name.partition('.')[0]}*")
    shutil.copy(max(others), file)
