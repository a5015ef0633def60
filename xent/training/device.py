"""The device a run trains on, and deterministic arithmetic there."""

import os

import torch

from xent.recording.device import accelerator
from xent.recording.errors import BadInput
from xent.recording.processes import launched


def choose_device(name: str) -> torch.device:
    """The device of a name, with its index among the devices of its kind.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`, or another that PyTorch has a module for. `auto` is the
            machine's accelerator if PyTorch sees one, else the CPU. If torchrun started several processes on this
            machine, each gets a device of its own.

    Raises:
        BadInput: PyTorch sees no such device, or too few.
    """
    try:
        device = (accelerator() or torch.device("cpu")) if name == "auto" else torch.device(name)
        count = torch.get_device_module(device).device_count()
    except (RuntimeError, AttributeError):
        raise BadInput(f"device={name}: expected auto, cpu, cuda, cuda:1, mps or xpu") from None
    processes = 1 if device.type == "cpu" or not launched() else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    named = device.index is not None and name != "auto"
    if (device.index or 0) >= count or processes > count or (processes > 1 and named):
        seen = f"PyTorch {torch.__version__} sees {count or 'no'} {device.type} device{'s' if count != 1 else ''}"
        advice = "train with device=cpu, or install a PyTorch built for the device"
        if processes > 1:
            advice = f"{processes} processes need device={device.type}, and one for each"
        raise BadInput(f"device={name}: {seen} on this machine; {advice}")
    index = int(os.environ["LOCAL_RANK"]) if processes > 1 else device.index
    if index is None and device.type != "cpu":
        index = torch.accelerator.current_device_index()
    return torch.device(device.type, index)


def make_deterministic(device: torch.device) -> None:
    """Make this device the current one, and ask PyTorch for arithmetic that repeats.

    That means deterministic algorithms where they exist (a warning names an operation that has none), and no TF32,
    which keeps 10 of float32's 23 bits.
    """
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS does not repeat
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
