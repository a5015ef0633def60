"""Ctrl-C between two steps of training, and nowhere else."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_between_steps() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back. The function that this gives tells whether it came, for the caller to stop.

    Raised wherever it happens to come, it could leave TensorBoard's queue locked, or be lost where none may be raised.
    A second Ctrl-C is not held back. Outside the main thread, where Python allows no handlers, nothing is held back.
    """
    asked = False

    def hold_back(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, hold_back)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
