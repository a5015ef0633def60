"""The command line of a run that is to go on."""

import os
import shlex
from pathlib import Path

from xent import checkpoint
from xent.errors import BadInput


def resumed(arguments: list[str]) -> list[str]:
    """`resume=FOLDER ...` as the command line that the run in that folder was begun with, and what else is given.

    What would import and run code, or configure Hydra, is not taken from a file: it has to be given again.

    Raises:
        BadInput: the folder holds no run to go on with, or it needs what has to be given again.
    """
    resume = [argument for argument in arguments if argument.startswith("resume=")]
    if not resume:
        return arguments
    given = [argument for argument in arguments if argument not in resume]
    folder = Path(resume[-1].removeprefix("resume="))
    if {"-m", "--multirun"} & set(given) or (folder / "multirun.yaml").exists():
        raise BadInput(f"resume={folder}: a sweep is finished by its own command with hydra.sweep.dir={folder}")
    saved = checkpoint.load(folder)
    if saved is None:
        found = f"no {checkpoint.FILE} is there" if folder.is_dir() else "there is no such folder"
        raise BadInput(f"resume={folder}: {found}, expected the folder of a run")
    overrides = [override for override in saved["overrides"] if override not in given]
    for override in overrides:
        if "_target_" in override or "${" in override or override.lstrip("+~").startswith(("hydra", "-")):
            raise BadInput(f"resume={folder}: that run was given {override}; if you trust it, give it again")
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    return [*overrides, *given, f'hydra.run.dir="{quoted}"']


def how_to_resume(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"python train.py resume={shlex.quote(os.path.relpath(folder))}"
