"""Paths as a person gives and reads them, relative to where the command was given."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import to_absolute_path


def absolute(path: str) -> Path:
    """A path that was given, `~` and all."""
    return Path(to_absolute_path(os.path.expanduser(path)))


def shown(path: Path) -> str:
    """A path as it is to be given, also where Hydra changed the working directory to that of the run."""
    begun = HydraConfig.get().runtime.cwd if HydraConfig.initialized() else None
    relative = os.path.relpath(path, begun)
    return f"./{relative}" if relative.startswith("~") else relative
