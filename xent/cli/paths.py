"""Paths as a person gives and reads them, relative to where the command was given, and values in Hydra's grammar."""

import os
import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import to_absolute_path


def absolute(path: str) -> Path:
    """A path that was given, `~` and all."""
    return Path(to_absolute_path(os.path.expanduser(path)))


def shown(path: Path) -> str:
    """A path as it is to be given, also where Hydra changed the working directory to that of the run."""
    begun = HydraConfig.get().runtime.cwd if HydraConfig.initialized() else None
    return os.path.relpath(path, begun)


def quoted(value: str) -> str:
    """A string as a value of Hydra's grammar, where backslashes mean something before a quote or a `${` alone."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # for OmegaConf, which reads what Hydra has read
    value = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return '"' + re.sub(r"(\\*)$", r"\1\1", value) + '"'
