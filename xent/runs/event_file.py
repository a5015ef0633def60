"""The event file of a run, for TensorBoard."""

import os
import socket
import time
from pathlib import Path
from typing import Any, Self
from zlib import crc32

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, text

from xent.recording.errors import BadInput
from xent.recording.files import cannot_write
from xent.recording.trace_file import EVENTS

# TensorBoard shows files whose names hold the first. Nudged runs are a measure and no curves to look at, and of more
# than 40 runs it would show none until a person ticks them.
SHOWN, HIDDEN = "tfevents", "nudged"
AGAIN = ".again"  # and a number, in the names of the files of a run that goes on


class RunLog:
    """The event file of a run, until that ends or is stopped: settings as text and as hyperparameters, and scalars.

    Every event is with the operating system when `write` returns, or it is Stopped. (SummaryWriter has a thread of its
    own for that, which dies with a traceback on a full disk, and it cannot go on with a file.)
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], position: dict[str, Any] | None = None, step: int = 0
    ) -> None:
        """Begin an event file in `folder`, after those that are there.

        What they hold of later steps than `step` is superseded. They are left as they are: a TensorBoard that follows
        one would stop at what was cut off.

        Args:
            position: that of a file before, at `step`; without one all that is there is superseded.
        """
        numbers_or_text = {key: value if type(value) in (int, float) else str(value) for key, value in settings.items()}
        # Not the first, which says what columns HPARAMS has: without it they are of all runs, what differs first.
        _, session_start, self._session_end = hparams(numbers_or_text, {})
        self.newest: dict[str, float] = dict(position["last"]) if position else {}  # the newest value of every tag
        before = sorted(folder.glob(f"{EVENTS}*"))
        if before and position:
            _check(folder, position)
        self.file = folder / _name_after(before, hidden=bool(settings.get("nudge")))
        self._open = self.file.open("ab")
        self._records = RecordWriter(self._open)
        self._add(Event(file_version="brain.Event:2"))
        if before:
            restart = SessionLog(status=SessionLog.START)
            self._add(Event(session_log=restart, step=step + 1 if position else 0))
        if not before or not position:
            rows = "".join(f"| `{key}` | `{value}` |\n" for key, value in settings.items())
            self._add(Event(summary=text("settings", f"| setting | value |\n|---|---|\n{rows}")))
            self._add(Event(summary=session_start))

    def __enter__(self) -> Self:
        return self

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars by their tags, after so many steps."""
        # One event for all of them: one for each would take eight times as long.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._add(Event(summary=Summary(value=values), step=step))
        self.newest |= scalars

    def position(self) -> dict[str, Any]:
        """Where the file, which is on the disk then, stands: to go on from there."""
        os.fsync(self._open.fileno())
        content = self.file.read_bytes()
        return {"file": self.file.name, "bytes": len(content), "crc": crc32(content), "last": self.newest}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:  # the run came to its end
                self._add(Event(summary=self._session_end))
        finally:
            self._open.raw.close()  # what could not be written is not tried again

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        record = event.SerializeToString()
        try:
            self._records.write(record)
            self._open.flush()
        except OSError as error:
            raise cannot_write(self.file, error, len(record)) from error


def _name_after(before: list[Path], hidden: bool) -> str:
    """A name for the next event file of a run: TensorBoard reads them in the order of their names."""
    if not before:
        return f"{EVENTS}{HIDDEN if hidden else SHOWN}.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
    stem, _, number = before[-1].name.partition(AGAIN)
    return f"{stem}{AGAIN}{int(number if number.isdecimal() else 0) + 1:04d}"


def _check(folder: Path, position: dict[str, Any]) -> None:
    """BadInput if the file of a position is another before it."""
    file: Path = folder / position["file"]
    content = file.read_bytes()[: position["bytes"]] if file.is_file() else b""
    if len(content) < position["bytes"] or crc32(content) != position["crc"]:
        raise BadInput(
            f"{file} is damaged or not of this run: get it back, or delete all {EVENTS}* there to go on "
            "without the curves of the steps before"
        )
