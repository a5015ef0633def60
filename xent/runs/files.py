"""Files that are whole at every moment, and folders that one process writes at a time."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from xent.training.errors import BadInput, Stopped


def write_whole(file: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Write a file so that whoever reads it, also after a crash, finds all of the old content or all of the new.

    The old file is kept as `previous`. Stopped if the new one cannot be written; the old one is as it was then.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as unfinished:
            unfinished.write(content)
            unfinished.flush()
            os.fsync(unfinished.fileno())
        if previous and file.exists():
            os.replace(file, previous)
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(file, error, len(content)) from error


def cannot_write(file: Path, error: OSError, size: int) -> Stopped:
    """What to say when `size` bytes of a file could not be written."""
    says = f"cannot write {file} ({error.strerror})"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Stopped(says)
    needed, free = (f"{count / 1e6:,.1f} MB" for count in (size, shutil.disk_usage(file.parent).free))
    return Stopped(f"{says}: it needs {needed}, and {free} are free there; make room")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training into a folder. The lock ends with the process, however that ends.

    The folder is made, and taken back if nothing was written there. BadInput if another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(f"another process trains in {folder}: wait for it, or give another folder") from error
    try:
        yield
    finally:
        if [path.name for path in folder.iterdir()] == [".lock"]:
            shutil.rmtree(folder)
        lock.release()
