"""Ctrl-C, and torchrun's word to end, between two steps of training and nowhere else."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from xent.cli.torchrun import is_silent, started_together


@contextmanager
def interrupted_between_steps() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back. The function that this gives tells whether it came, for the caller to stop.

    Raised wherever it happens to come, it could leave TensorBoard's queue locked, or be lost where none may be raised.
    A second Ctrl-C is not held back. Outside the main thread, where Python allows no handlers, nothing is held back. Of
    several processes the first decides, and the others end with it.
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
    numbers = [signal.SIGINT, signal.SIGTERM] if started_together() > 1 else [signal.SIGINT]
    before = [signal.signal(number, signal.SIG_IGN if is_silent() else hold_back) for number in numbers]
    try:
        yield lambda: asked
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
