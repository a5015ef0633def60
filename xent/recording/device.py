"""What differs between kinds of device, and PyTorch's random number generators on them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PINNED = ("cuda", "xpu")  # a copy from the host to these is asynchronous only from pinned memory


def has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def widest_float(device: torch.device) -> torch.dtype:
    return torch.float64 if has_float64(device) else torch.float32


def accelerator() -> torch.device | None:
    """The current accelerator of the machine, with its index, or None if there is none."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device and torch.device(device.type, torch.accelerator.current_device_index())


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device, asynchronously."""
    return (tensor.pin_memory() if device.type in PINNED else tensor).to(device, non_blocking=True)


@contextmanager
def forked(device: torch.device | None) -> Iterator[None]:
    """Restore PyTorch's generators of the CPU and of a device afterwards."""
    others = [device] if device and device.type != "cpu" else []
    with torch.random.fork_rng(others, device_type=others[0].type if others else "cuda"):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | None) -> Iterator[None]:
    """Seed PyTorch's generators of the CPU and of a device, and restore their states afterwards."""
    with forked(device):
        torch.manual_seed(seed)
        yield
