"""Resume a run: its command line, and how to go on."""

import os
import re
import shlex
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from xent.cli.compose import Run
from xent.cli.progress import Sweep
from xent.cli.schema import Config
from xent.recording.errors import BadInput
from xent.recording.trace import FILE, load
from xent.training import checkpoint

SWEEP = "multirun.yaml"  # Hydra writes it into the folder of a sweep


def resumed(arguments: list[str]) -> list[str]:
    """Expand `resume=FOLDER ...` to the command line that began the run in that folder, and the other arguments.

    Overrides that import code or configure Hydra are not taken from the file: they must be given again.

    Raises:
        BadInput: such an override is not given again, the folder holds no run to resume, or a setting has dashes.
    """
    settings = [field.name for field in fields(Config)]
    for argument in arguments:
        if argument.startswith("-") and re.split("[.=]", argument.lstrip("-"))[0] in settings:
            raise BadInput(f"{argument}: a setting has no dashes, write {argument.lstrip('-')}")
    resume = [argument for argument in arguments if argument.startswith("resume=")]
    if not resume:
        return arguments
    rest = [argument for argument in arguments if argument not in resume]
    folder = Path(os.path.expanduser(resume[-1].removeprefix("resume="))).absolute()
    if {"-m", "--multirun"} & {*rest} or (folder / SWEEP).exists():
        raise BadInput(f"{resume[-1]}: a sweep is finished by its own command with hydra.sweep.dir=FOLDER")
    saved = checkpoint.load(folder)
    if saved is None:
        reason = f"no {checkpoint.FILE} is there" if folder.is_dir() else "there is no such folder"
        raise BadInput(f"{resume[-1]}: {reason}, expected the folder of a run")
    overrides = [override for override in saved["overrides"] if override not in rest]
    if harmful := [override for override in overrides if not _is_harmless(override)]:
        raise BadInput(f"{resume[-1]}: that run was given {harmful[0]}; if you trust it, give it again")
    # As a resolver, the folder needs no quoting for Hydra's grammar.
    OmegaConf.register_new_resolver("resumed_folder", lambda: str(folder), replace=True)
    # Together with the other overrides: Hydra takes none behind a flag that follows one.
    first = next(i for i, argument in enumerate(arguments) if "=" in argument and not argument.startswith("-"))
    return [*rest[:first], *overrides, "hydra.run.dir=${resumed_folder:}", *rest[first:]]


def _is_harmless(override: str) -> bool:
    """Whether an override neither imports code, nor interpolates, nor configures Hydra."""
    return not ("_target_" in override or "${" in override or override.lstrip("+~").startswith(("hydra", "-")))


def how_to_resume(folder: Path) -> str:
    """How to resume the run, or the sweep, in a folder, as advice to print."""
    is_sweep = (folder / SWEEP).exists()
    # A run of a sweep may be in a process with another command line.
    typed = Sweep().typed if is_sweep and Sweep().folder == folder.absolute() else tuple(sys.argv[1:])
    key = f"hydra.{'sweep' if is_sweep else 'run'}.dir="
    words = [word for word in typed if not word.startswith(key)]
    has_checkpoint, has_flags = any(folder.glob("checkpoint*.pt")), any(word.startswith("-") for word in words)
    if has_checkpoint and not has_flags:
        again = [word for word in words if not word.startswith("hydra.") and not _is_harmless(word)]
        words = [f"resume={shown(folder)}", *again]
    else:
        first = next((i for i, word in enumerate(words) if "=" in word and not word.startswith("-")), len(words))
        words.insert(first, f"{key}{_quoted(shown(folder))}")
    python = "python" if shutil.which("python") == sys.executable else shown(Path(sys.executable))
    return f"to go on: {shlex.join([python, 'train.py', *words])}"


def _quoted(text: str) -> str:
    """A text as a value in Hydra's grammar."""
    if re.fullmatch(r"[\w./:%+-]+", text, re.ASCII):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def is_finished(run: Run, saved: dict[str, Any] | None, changed: dict[str, Any]) -> bool:
    """Whether the run in a folder is finished, which it then prints. A run that resumes with more epochs is not.

    Raises:
        BadInput: the folder holds a trace, but no checkpoint to resume from.
    """
    if not (run.folder / FILE).exists() or "epochs" in changed:
        return False
    if saved is None:
        raise BadInput(f"{run.folder} holds a {FILE} and no {checkpoint.FILE} to resume from: give another folder")
    if not run.is_swept:  # a sweep says first how many are
        print(f"{shown(run.folder)} is finished, after {load(run.folder).step} steps")
    return True


def shown(path: Path) -> str:
    """A path relative to where the command was given, even if Hydra changed the working directory."""
    return os.path.relpath(path, HydraConfig.get().runtime.cwd if HydraConfig.initialized() else None)
