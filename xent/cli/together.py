"""The processes of a run: how they come together, what they tell each other, and how they end."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from omegaconf import OmegaConf
from torch import distributed

from xent.cli.compose import Run
from xent.cli.torchrun import started_together, store_of_this_start
from xent.recording.errors import BadInput, Stopped
from xent.recording.processes import is_first, processes
from xent.recording.settings import flat_settings
from xent.runs.lock import locked

Found = TypeVar("Found")


class Told(Stopped):
    """Stopped, and another process of this run says why."""


class OtherEnded(Stopped):
    """Another process of this run ended, and so must this one."""


@contextmanager
def together(run: Run) -> Iterator[None]:
    """Let the processes of a run come together, and keep others from its folder.

    Raises:
        BadInput: not all came, or one has other settings, or others train there.
        OtherEnded: while this one trained.
    """
    if started_together() == 1:
        with locked(run.folder):
            yield
        return
    backend, timeout = _backend(run), timedelta(seconds=run.config.timeout)
    try:
        store = store_of_this_start(run.config.timeout)
        if store is None:
            distributed.init_process_group(backend, timeout=timeout)
        else:
            number = int(os.environ["RANK"])
            distributed.init_process_group(backend, None, timeout, started_together(), number, store)
    except RuntimeError as error:
        raise BadInput(
            f"{started_together()} processes did not come together within timeout={run.config.timeout} seconds "
            f"({_first_line(error)}): start all of them, with the same --master-addr and a free --master-port"
        ) from error
    try:
        _check_same(run)
        with locked(run.folder):
            yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and backend not in str(error).lower():
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which torchrun ends this one too
        raise OtherEnded("another process of this run ended") from error


def _backend(run: Run) -> str:
    """The library by which processes exchange numbers on the run's device. BadInput if PyTorch has none for it."""
    try:
        return distributed.get_default_backend_for_device(run.device)
    except ValueError as error:
        raise BadInput(
            f"processes={run.config.processes}: PyTorch has nothing by which {run.device.type} devices exchange "
            "numbers; train with processes=1"
        ) from error


def _check_same(run: Run) -> None:
    """BadInput, on all processes, if one has another configuration than the first."""
    container: Any = OmegaConf.to_container(run.cfg, resolve=True, enum_to_str=True)
    own = flat_settings(container) | {"folder": str(run.folder)}
    everyones: list[dict[str, Any]] = [{}] * processes()
    distributed.all_gather_object(everyones, own)
    for number, theirs in enumerate(everyones):
        other = [
            f"{key}={theirs.get(key)}, not {value}" for key, value in everyones[0].items() if theirs.get(key) != value
        ]
        if other:
            raise BadInput(f"process {number} has {', '.join(other)}: give every process the same command line")


def from_first(found: Found) -> Found:
    """What the first process found, on all."""
    if processes() == 1:
        return found
    given = [found]
    distributed.broadcast_object_list(given)
    return given[0]


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Let the first process do something, such as a download, before the others do."""
    if not is_first():
        distributed.barrier()
    yield
    if is_first() and processes() > 1:
        distributed.barrier()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End one of several processes without ending its interpreter.

    A wrapped model keeps the threads of gloo alive, and one that still holds a tensor while the interpreter ends would
    abort the process.
    """
    code: int | str | None = 0
    try:
        yield
    except SystemExit as error:
        code = error.code
    if processes() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    if code:
        raise SystemExit(code)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
