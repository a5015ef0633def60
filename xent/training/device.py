"""The device a run trains on, set up to repeat itself."""

import os

import torch

from xent.recording.errors import BadInput


def prepare(name: str) -> torch.device:
    """Choose the device and ask PyTorch for arithmetic on it that repeats.

    Deterministic algorithms where there are any (a warning names an operation that has none) and no TF32, which
    keeps 10 of float32's 23 bits.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes the first there is of cuda, mps, cpu. Where torchrun
            started several processes on this machine, `cuda` is a GPU of each one's own. BadInput if PyTorch sees no
            such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise BadInput(f"device={name}: expected auto, cpu, cuda, cuda:1 or mps")
    at_once = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # which torchrun tells
    if device.type == "cuda" and at_once > 1:
        if device.index is not None or at_once > torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise BadInput(
                f"device={name}: {at_once} processes here, {there} GPUs; expected device=cuda, and one for each"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    seen = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= seen:
        raise BadInput(
            f"device={name}: PyTorch {torch.__version__} sees {seen or 'no'} {device.type} device{'s'[: seen != 1]} "
            "on this machine; train with device=cpu, or install a PyTorch built for the device"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS does not repeat
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
