"""What can happen to the files of a run, and what a person then sees."""

import os
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import torch

from tests.helpers.commands import PROJECT, small
from xent.training.checkpoint import DIGEST

DATA = f"data.root={PROJECT / 'data'}"
SMALL = [*small(log_every=1, checkpoint_every=4), DATA]


def name_of(value: object) -> str:
    """Of a function its name in words, and of anything else its text: for the names of tests."""
    return str(getattr(value, "__name__", value)).replace("_", " ")


def inflict(happens: Callable[[Path], object], folder: Path, pattern: str) -> None:
    """Let it happen to all files of a folder that match a pattern."""
    files = list(folder.glob(pattern))
    assert files
    for file in files:
        happens(file)


def check(result: CompletedProcess[str], says: str, exits_with: int, run: Path) -> None:
    """The command ended as a person was promised.

    Args:
        says: the one line of errors, in which `{run}` is the folder of the run and `...` stands for anything; or ""
            where nothing is said.
    """
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


def flipped_in_its_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 0xFF
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
        changed(file, model=bomb)
    else:
        with np.load(file) as arrays:
            np.savez(file, **dict(arrays) | {"losses": np.array([bomb], dtype=object)})


def given_a_target_to_import(file: Path) -> None:
    changed(file, overrides=[*contents(file)["overrides"], "loss._target_=os.abort"])


def of_an_older_version(file: Path) -> None:
    changed(file, version=1)


def contents(checkpoint: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(BytesIO(checkpoint.read_bytes()[:-DIGEST]), weights_only=True)
    return saved


def changed(checkpoint: Path, **values: object) -> None:
    """Change values of a checkpoint, with the checksum that is right then."""
    content = BytesIO()
    torch.save(contents(checkpoint) | values, content)
    checkpoint.write_bytes(content.getvalue() + sha256(content.getvalue()).digest())


def replaced_by_the_labels(file: Path) -> None:
    shutil.copy(file.with_name("t10k-labels-idx1-ubyte.gz"), file)


def replaced_by_another_runs(file: Path) -> None:
    run = next(parent for parent in file.parents if parent.name == "run")
    shutil.copy(run.parent / "other" / file.relative_to(run), file)
