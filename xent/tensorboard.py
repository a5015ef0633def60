"""What goes to TensorBoard."""

import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zlib import crc32

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams, text

from xent.errors import BadInput
from xent.files import cannot_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # training draws nothing, and importing what could takes a tenth of its start

EVENTS = "events.out.tfevents."
MOST_POINTS = 1000  # that TensorBoard shows of a curve

Curves = dict[str, dict[str, dict[int, float]]]  # by their run and their tag, the values by their steps
Layout = dict[str, dict[str, str]]  # of the tab CUSTOM SCALARS: by the titles of a section and a chart, the tag in it


class RunLog:
    """The event file of one run: its settings as text and as hyperparameters, and its scalars.

    Every event is with the operating system when `write` returns. (SummaryWriter has a thread of its own for that,
    which dies with a traceback on a full disk, and it cannot go on with a file.)

    Raises:
        BadInput: the file that it is to go on with is not as it was.
        Stopped: the file cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], position: dict[str, Any] | None = None) -> None:
        """Begin an event file in `folder`, or go on with one at a position that it was at before."""
        numbers_or_text = {key: value if type(value) in (int, float) else str(value) for key, value in settings.items()}
        # Not the first, which says what columns HPARAMS has: without it they are of all runs, what differs first.
        _, session_start, self._session_end = hparams(numbers_or_text, {})
        self.last: dict[str, float] = dict(position["last"]) if position else {}  # the newest value of every tag
        goes_on = position is not None and _cut_back(folder, position)
        name = position["file"] if position else f"{EVENTS}{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.file = folder / name
        self._open = self.file.open("ab")
        self._records = RecordWriter(self._open)
        if not goes_on:
            rows = "".join(f"| `{key}` | `{value}` |\n" for key, value in settings.items())
            self._add(Event(file_version="brain.Event:2"))
            self._add(Event(summary=text("settings", f"| setting | value |\n|---|---|\n{rows}")))
            self._add(Event(summary=session_start))

    def __enter__(self) -> Self:
        return self

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars by their tags, after so many steps."""
        # One event for all of them: one for each would take eight times as long.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._add(Event(summary=Summary(value=values), step=step))
        self.last |= scalars

    def position(self) -> dict[str, Any]:
        """Where the file, which is on the disk then, stands: to go on from there."""
        os.fsync(self._open.fileno())
        content = self.file.read_bytes()
        return {"file": self.file.name, "bytes": len(content), "crc": crc32(content), "last": self.last}

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


def _cut_back(folder: Path, position: dict[str, Any]) -> bool:
    """Take what came after a position from an event file. Whether there is one: a person may have deleted it.

    Raises:
        BadInput: what came before is not what it was.
    """
    file: Path = folder / position["file"]
    if not file.exists() and not list(folder.glob(f"{EVENTS}*")):
        return False
    content = file.read_bytes()[: position["bytes"]] if file.is_file() else b""
    if len(content) < position["bytes"] or crc32(content) != position["crc"]:
        raise BadInput(
            f"{file} is damaged or not of this run: get it back, or delete all {EVENTS}* there to go on "
            "without the curves of the steps before"
        )
    os.truncate(file, position["bytes"])
    return True


def write_comparison(folder: Path, curves: Curves, layout: Layout, page: str, picture: "Figure") -> None:
    """Curves, a page and a picture, as the run `comparison` beside the others, and runs inside it."""
    own = folder / "curves"
    for old in [*folder.glob(f"{EVENTS}*"), *own.glob(f"*/{EVENTS}*")]:
        old.unlink()  # TensorBoard would draw the curves of an earlier comparison with them
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("verdict", page, 0)
        writer.add_figure("curves", picture, close=False)
        writer.add_custom_scalars(
            {
                section: {title: ["Multiline", [f"{re.escape(tag)}$"]] for title, tag in charts.items()}
                for section, charts in layout.items()
            }
        )
    for run, by_tag in curves.items():
        with SummaryWriter(str(own / run.replace("/", "%2F"))) as writer:
            for tag, curve in by_tag.items():
                for step, value in curve.items():
                    writer.add_scalar(tag, value, step)
