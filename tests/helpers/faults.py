"""What can happen to a file, and what a person then reads."""

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

import torch

from tests.helpers.commands import PROJECT, small
from xent.training.checkpoint import DIGEST

SMALL = [*small(log_every=1, checkpoint_every=4), f"data.root={PROJECT / 'data'}"]


def the_error(result: CompletedProcess[str], folder: Path, code: int = 2) -> str:
    """The one line of errors of a command, with RUN for a folder in it."""
    assert result.returncode == code, result
    assert "Traceback" not in result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    return line.replace(os.path.relpath(folder), "RUN").replace(str(folder), "RUN")


def succeeds(result: CompletedProcess[str]) -> bool:
    return (result.returncode, result.stderr) == (0, "")


def files_of(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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


def make_malicious(checkpoint: Path) -> None:
    change(checkpoint, model=Bomb())


def make_older(checkpoint: Path) -> None:
    change(checkpoint, version=1)


def change(checkpoint: Path, **values: object) -> None:
    """Change values of a checkpoint, with the checksum that is right then."""
    saved = torch.load(BytesIO(checkpoint.read_bytes()[:-DIGEST]), weights_only=True)
    content = BytesIO()
    torch.save(saved | values, content)
    checkpoint.write_bytes(content.getvalue() + sha256(content.getvalue()).digest())
