"""Files that are whole at every moment."""

import errno
import os
import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from xent.recording.errors import Stopped


def write_whole(file: Path, content: BytesIO, previous: Path | None = None) -> None:
    """Write a file so that whoever reads it, also after a crash, finds all of the old content or all of the new.

    The old file is kept as `previous`. Stopped if the new one cannot be written; the old one is as it was then.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as unfinished, content.getbuffer() as whole:  # whoever catches the error holds no view
            unfinished.write(whole)
            unfinished.flush()
            os.fsync(unfinished.fileno())
        if previous and file.exists():
            os.replace(file, previous)
        os.replace(part, file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise cannot_write(file, error, content.getbuffer().nbytes) from error


def cannot_write(file: Path, error: OSError, size: int) -> Stopped:
    """What to say when `size` bytes of a file could not be written."""
    says = f"cannot write {file} ({error.strerror})"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Stopped(says)
    try:
        free = shutil.disk_usage(file.parent).free
    except OSError:
        return Stopped(says)
    return Stopped(f"{says}: it needs {size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free there; make room")
