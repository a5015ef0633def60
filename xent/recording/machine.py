"""The machine that a run was made on."""

import platform
from pathlib import Path

import torch


def machine(device: torch.device) -> dict[str, str | int]:
    """What else the last bits of a run depend on: the processor, its instructions and threads, and PyTorch."""
    on_cpu = device.type == "cpu"
    name_of = getattr(torch.get_device_module(device), "get_device_name", None)  # Apple's is that of the processor
    return {
        "machine.processor": name_of(device) if name_of else _processor(),
        "machine.instructions": torch.backends.cpu.get_cpu_capability() if on_cpu else "",
        "machine.threads": torch.get_num_threads() if on_cpu else 0,
        "machine.torch": str(torch.__version__),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere than on Linux, Python knows
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
