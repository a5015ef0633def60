"""The machine that a run was made on."""

import platform
from pathlib import Path

import torch


def machine(device: torch.device) -> dict[str, str | int]:
    """What else the last bits of a run depend on: the processor, its instructions and threads, and PyTorch."""
    on_gpu = device.type == "cuda"
    return {
        "machine.processor": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "machine.instructions": "" if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "machine.threads": 0 if on_gpu else torch.get_num_threads(),
        "machine.torch": str(torch.__version__),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere than on Linux, Python knows
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
