"""The processes of a run, which torchrun starts: how they meet, what they tell each other, and how they end."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch import distributed
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from xent.cli.compose import Run
from xent.cli.progress import erase
from xent.recording.errors import BadInput, Stopped
from xent.recording.processes import launched

# Seconds before processes part. PyTorch 2.6 joins gloo's threads with the GIL held, and hangs if one of them waits for
# it, to let go of its last tensors.
GOODBYE = 0.1


@contextmanager
def process_group(run: Run) -> Iterator[None]:
    """Join the processes that torchrun started; does nothing without torchrun.

    Raises:
        BadInput: not all processes joined in time, or one has other settings.
        Stopped: another process ended while this one trained.
    """
    processes = launched()
    if processes is None:
        yield
        return
    timeout, start = timedelta(seconds=run.config.timeout), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        backend = distributed.get_default_backend_for_device(run.device)
        with _silenced():
            store, number, size = next(rendezvous("env://", timeout=timeout))
        of_start = PrefixStore(start, store)  # torchrun's store keeps the addresses of processes that it restarts
        distributed.init_process_group(backend, timeout=timeout, world_size=size, rank=number, store=of_start)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        what = f"{processes[1]} processes did not meet within timeout={run.config.timeout} seconds"
        refusal = f"{what} ({reason}): start all of them, with a free --master-port"
        if processes[0] > 0:  # rank 0, which speaks for all, may not be there
            print(refusal, file=sys.stderr)
        raise BadInput(refusal) from error
    try:
        _check_same_settings(run)
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and backend not in str(error).lower():
            raise
        raise Stopped("another process of this run ended") from error
    time.sleep(GOODBYE)
    distributed.destroy_process_group()


@contextmanager
def _silenced() -> Iterator[None]:
    """Send what PyTorch's C++ writes to nowhere: of each failed attempt to connect, the frames of its stack."""
    try:
        terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # nothing is written where there is no such stream
        yield
        return
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _check_same_settings(run: Run) -> None:
    """Check that every rank has the settings of rank 0. The machines may differ.

    Raises:
        BadInput: one has other settings; on all ranks.
    """
    everyones: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyones, run.settings)
    expected = {key: value for key, value in everyones[0].items() if not key.startswith(("machine.", "device"))}
    for rank, settings in enumerate(everyones):
        other = [f"{key}={settings[key]}, not {value}" for key, value in expected.items() if settings[key] != value]
        if other:
            raise BadInput(f"rank {rank} has {', '.join(other)}: give every process the same command line")


def from_rank_0(value: Any) -> Any:
    """The value of rank 0, on every rank."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def tell(message: object) -> None:
    """Print on standard error, on rank 0 alone."""
    try:
        speaks = (launched() or (0, 1))[0] == 0
    except BadInput:
        speaks = True
    if speaks:
        print(f"{erase(sys.stderr)}{message}", file=sys.stderr)
