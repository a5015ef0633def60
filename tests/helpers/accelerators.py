"""The device of a test that is not the CPU, and what is asked of a training there."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

try:
    from tests.helpers import second_device
except AttributeError:  # of a private function of PyTorch's that is gone
    second_device = None


def register() -> None:
    """Make a device of our own known to PyTorch, which must be before the first backward pass of a process."""
    if second_device and not torch.cuda.is_available():
        second_device.register()


@contextmanager
def an_accelerator() -> Iterator[str]:
    """The machine's GPU, or where it has none, a device of our own."""
    if torch.cuda.is_available():
        yield "cuda"
    elif second_device is None:
        pytest.skip(f"there is no GPU here, and PyTorch {torch.__version__} takes no device that is written in Python")
    else:
        with patch.object(second_device.MODULE, "there", True):
            yield "second"


@contextmanager
def waits() -> Iterator[list[str]]:
    """What the host waits for meanwhile, of the accelerator."""
    if not torch.cuda.is_available():
        with patch.object(second_device, "WAITS", []) as waited:
            yield waited
        return
    waited = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield waited
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waited += [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]


class Operations(TorchDispatchMode):
    """Counts operations. As many for a larger batch means that Python looks at no element of it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[str(operation)] += 1
        return operation(*args, **kwargs or {})
