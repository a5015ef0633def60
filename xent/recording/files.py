"""Atomic writes: a file is whole at every moment."""

import errno
import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from xent.recording.errors import Stopped


def write_whole(file: Path, content: BytesIO, previous: Path | None = None) -> None:
    """Write a file atomically: a reader, even after a crash, finds all of the old content or all of the new.

    Args:
        previous: where the old file is kept. For a moment, only that file is there.

    Raises:
        Stopped: the new file cannot be written; the old one is kept.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as unfinished, content.getbuffer() as whole:  # a caught error must not hold the view
            unfinished.write(whole)
            unfinished.flush()
            os.fsync(unfinished.fileno())
        if previous and file.exists():
            os.replace(file, previous)
        os.replace(part, file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise cannot_write(file, error) from error


def cannot_write(file: Path, error: OSError) -> Stopped:
    """The error of a file that could not be written."""
    return Stopped(f"cannot write {file} ({error.strerror}){': make room there' if is_full(error) else ''}")


def is_full(error: Exception) -> bool:
    """Whether an error says that a disk is full, or a quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
