"""What differs between kinds of device: to add one, add a row to the table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class Kind(NamedTuple):
    """A kind of device.

    Attributes:
        immediate: an operation is done when it returns, so that the host waits for nothing when it looks at a number.
        float64: it has that type.
        pins: a copy from the host makes it wait, but for one from pinned memory.
        compile_mode: that of torch.compile which costs the host the least.
        sync_batch_norm: nn.SyncBatchNorm works there.
    """

    immediate: bool = False
    float64: bool = True
    pins: bool = False
    compile_mode: str | None = None
    sync_batch_norm: bool = True


KINDS = {
    "cpu": Kind(immediate=True, sync_batch_norm=False),
    "cuda": Kind(pins=True, compile_mode="reduce-overhead"),  # which captures graphs
    "mps": Kind(float64=False, sync_batch_norm=False),
    "xpu": Kind(pins=True),
}


def kind(device: torch.device) -> Kind:
    """That of a device; one that PyTorch has and the table has not is taken as the defaults say."""
    return KINDS.get(device.type, Kind())


ONE_DEVICE_BACKENDS = ("nccl", "xccl")  # of torch.distributed: they send what is on the accelerator, and nothing else


def widest_float(device: torch.device) -> torch.dtype:
    return torch.float64 if kind(device).float64 else torch.float32


def accelerator() -> torch.device | None:
    """The current device of the machine that is not its CPU, if it has one."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found and torch.device(found.type, torch.accelerator.current_device_index())


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without that the host waits."""
    return (tensor.pin_memory() if kind(device).pins else tensor).to(device, non_blocking=True)


def random_state(device: torch.device) -> Tensor:
    """The state of the generator that PyTorch draws from where no other is given."""
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


@contextmanager
def drawing_from(seed: int, device: torch.device | None) -> Iterator[None]:
    """PyTorch's generators at a seed, of the CPU and of a device, and then where they were."""
    devices = {torch.device("cpu"), device or torch.device("cpu")}
    states = [random_state(device) for device in devices]
    torch.manual_seed(seed)
    try:
        yield
    finally:
        for device, state in zip(devices, states):
            set_random_state(device, state)
