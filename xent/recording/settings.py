"""The settings of a run as a trace keeps them: JSON values by dotted name, including the machine's."""

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xent.recording.errors import BadInput


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested settings to JSON values by dotted name.

    What JSON lacks becomes text: a path, a type, NaN, which would also differ from itself.

    >>> flat_settings({"optimizer": {"lr": 0.1}, "dtype": torch.float32})
    {"optimizer.lr": 0.1, "dtype": "torch.float32"}

    Raises:
        BadInput: two settings have one name.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            new = {f"{key}.{name}": inner for name, inner in flat_settings(value).items()}
        else:
            new = {str(key): json.loads(json.dumps(value, default=_plain), parse_constant=str)}
        if twice := new.keys() & flat.keys():
            raise BadInput(f"settings have {min(twice)} twice: expected every setting under a name of its own")
        flat |= new
    return flat


def _plain(value: Any) -> Any:
    """A NumPy or PyTorch scalar as a Python number; anything else as text."""
    return value.item() if getattr(value, "shape", None) == () else str(value)


def run_settings(settings: Mapping[str, Any], nudge: int) -> dict[str, Any]:
    """The settings that a recorder got, flattened, with seed and nudge.

    Raises:
        BadInput: the seed is no integer, or the settings hold another nudge.
    """
    flat = {"seed": 0} | flat_settings(settings)
    if not isinstance(flat["seed"], int) or flat.get("nudge", nudge) != nudge:
        wrong = {key: flat[key] for key in ("seed", "nudge") if key in flat}
        raise BadInput(f"settings have {wrong}: expected an integer seed, and the nudge that is given, if one is")
    return flat | {"nudge": nudge}


def precision_of(settings: Mapping[str, Any], key: str = "precision") -> torch.dtype | None:
    """The dtype that a setting names, or None if it names none."""
    dtype = getattr(torch, str(settings.get(key)), None)
    return dtype if isinstance(dtype, torch.dtype) else None


def machine_settings(device: torch.device) -> dict[str, str | int]:
    """What else the last bits of a run depend on: processor, instruction set, threads, and PyTorch's version."""
    on_cpu = device.type == "cpu"
    device_name = getattr(torch.get_device_module(device), "get_device_name", None)  # Apple's is the processor's
    return {
        "machine.processor": device_name(device) if device_name else _processor(),
        "machine.instructions": torch.backends.cpu.get_cpu_capability() if on_cpu else "",
        "machine.threads": torch.get_num_threads() if on_cpu else 0,
        "machine.torch": str(torch.__version__),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # on Linux, Python does not know the name
    name = re.search(r"^model name\s*: (.*)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return name[1] if name else platform.processor() or platform.machine()
