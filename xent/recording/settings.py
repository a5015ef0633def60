"""The settings of a run as a trace keeps them: JSON values by dotted names."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from xent.recording.errors import BadInput


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values by dotted names; what JSON does not know, such as a path or a type, as text.

    >>> flat_settings({"optimizer": {"lr": 0.1}, "dtype": torch.float32})
    {"optimizer.lr": 0.1, "dtype": "torch.float32"}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in flat_settings(value).items()}
        else:
            found[str(key)] = json.loads(json.dumps(value, default=_plain))
    return found


def run_settings(settings: Mapping[str, Any], nudge: int) -> dict[str, Any]:
    """Those that a recorder is given, with seed and nudge. BadInput if they hold another nudge, or no integer."""
    found = {"seed": 0} | flat_settings(settings)
    if not isinstance(found["seed"], int) or found.get("nudge", nudge) != nudge:
        given = {key: found[key] for key in ("seed", "nudge") if key in found}
        raise BadInput(f"settings have {given}: expected an integer seed, and the nudge as an argument of its own")
    return found | {"nudge": nudge}


def precision_of(settings: Mapping[str, Any], key: str = "precision") -> torch.dtype | None:
    """The type that a setting names, if it is one."""
    found = getattr(torch, str(settings.get(key)), None)
    return found if isinstance(found, torch.dtype) else None


def _plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's, anything else as text."""
    return value.item() if getattr(value, "shape", None) == () else str(value)
