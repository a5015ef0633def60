"""The device a run trains on, set up to repeat itself."""

import os

import torch

from xent.recording.device import accelerator
from xent.recording.errors import BadInput


def prepare(name: str) -> torch.device:
    """Choose the device and ask PyTorch for arithmetic on it that repeats.

    Deterministic algorithms where there are any (a warning names an operation that has none) and no TF32, which
    keeps 10 of float32's 23 bits.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`, or what else PyTorch has a module for; `auto` takes the
            machine's accelerator, if PyTorch sees one, or else the CPU. Where torchrun started several processes on
            this machine, `cuda` is a GPU of each one's own. BadInput if PyTorch sees no such device.
    """
    device = (accelerator() or torch.device("cpu")) if name == "auto" else _named(name)
    device = _seen(device, name)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS does not repeat
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    return device


def _named(name: str) -> torch.device:
    """The device of a name, if there are such devices. BadInput if it is none."""
    try:
        device = torch.device(name)
        module = torch.get_device_module(device)
    except RuntimeError:
        module = None
    if not hasattr(module, "device_count"):
        raise BadInput(f"device={name}: expected auto, cpu, cuda, cuda:1, mps or xpu")
    return device


def _seen(device: torch.device, name: str) -> torch.device:
    """The device with its number among those of its kind. BadInput if PyTorch does not see it."""
    seen = torch.get_device_module(device).device_count()
    at_once = 1 if device.type == "cpu" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # which torchrun tells
    if at_once > 1 and (at_once > seen or (device.index is not None and name != "auto")):
        raise BadInput(
            f"device={name}: {at_once} processes here, and {seen or 'no'} device{'s'[: seen != 1]} of this kind; "
            f"expected device={device.type}, and one for each process"
        )
    if (device.index or 0) >= seen:
        raise BadInput(
            f"device={name}: PyTorch {torch.__version__} sees {seen or 'no'} {device.type} device{'s'[: seen != 1]} "
            "on this machine; train with device=cpu, or install a PyTorch built for the device"
        )
    if at_once > 1:
        return torch.device(device.type, int(os.environ["LOCAL_RANK"]))
    if device.type == "cpu" or device.index is not None:
        return device
    return torch.device(device.type, torch.accelerator.current_device_index())
