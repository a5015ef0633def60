"""Standard output that outlives its reader: a training goes on when what it prints can no longer be written."""

import os
import sys
from typing import Any, TextIO


class _Outliving:
    """A stream to which nothing is written any more once that fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._silence(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._silence(error)

    def _silence(self, error: OSError) -> None:
        """Send the stream, and what it holds back, to nowhere; say so, but not of a reader who left, as `head` does."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError) and self is sys.stdout:
            print(f"standard output cannot be written ({error.strerror}): going on in silence", file=sys.stderr)


def outlive_readers() -> None:
    """Let nothing that is printed stop this process: no reader that is gone, no full disk, no narrow encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # of a process that has no terminal
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  as long as the process
        elif hasattr(stream, "reconfigure") and not isinstance(stream, _Outliving):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Outliving(stream))
