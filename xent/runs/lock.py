"""A folder that one process writes at a time."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from xent.recording.errors import BadInput
from xent.recording.processes import is_first


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training into a folder. The lock ends with the process, however that ends.

    The folder is made, and taken back if nothing was written there. Of processes that train together the first does
    all that. BadInput if another process trains there.
    """
    if not is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(f"another process trains in {folder}: wait for it, or give another folder") from error
    except OSError:  # it can only be read, as a finished run may; whoever writes there will be told
        yield
        return
    try:
        yield
    finally:
        if [path.name for path in folder.iterdir()] == [".lock"]:
            shutil.rmtree(folder)
        lock.release()
