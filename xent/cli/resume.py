"""Going on with a run: its command line, and the checkpoint in its folder."""

from pathlib import Path
from typing import Any

from xent.cli.compose import Run
from xent.cli.together import from_first
from xent.cli.torchrun import started_together
from xent.recording import trace_file
from xent.recording.errors import BadInput
from xent.recording.processes import is_first
from xent.runs import checkpoint
from xent.runs.traces import SWEEP


def resumed(arguments: list[str]) -> list[str]:
    """`resume=FOLDER ...` as the command line that the run in that folder was begun with, and what else is given.

    It goes on with as many processes as torchrun starts, or else with as many as before.

    What would import and run code, or configure Hydra, is not taken from a file: it has to be given again. BadInput if
    it was not, or the folder holds no run to go on with.
    """
    resume = [argument for argument in arguments if argument.startswith("resume=")]
    if not resume:
        return arguments
    given = [argument for argument in arguments if argument not in resume]
    folder = Path(resume[-1].removeprefix("resume="))
    if {"-m", "--multirun"} & set(given) or (folder / SWEEP).exists():
        raise BadInput(f"resume={folder}: a sweep is finished by its own command with hydra.sweep.dir={folder}")
    saved = checkpoint.load(folder)
    if saved is None:
        found = f"no {checkpoint.FILE} is there" if folder.is_dir() else "there is no such folder"
        raise BadInput(f"resume={folder}: {found}, expected the folder of a run")
    overrides = [each for each in saved["overrides"] if each not in given and not each.startswith("processes=")]
    processes = saved["recorder"]["settings"]["processes"]
    if processes > 1 and started_together() == 1 and not any(each.startswith("processes=") for each in given):
        overrides.append(f"processes={processes}")
    for override in overrides:
        if "_target_" in override or "${" in override or override.lstrip("+~").startswith(("hydra", "-")):
            raise BadInput(f"resume={folder}: that run was given {override}; if you trust it, give it again")
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    return [*overrides, *given, f'hydra.run.dir="{quoted}"']


def checkpoint_of(run: Run) -> dict[str, Any] | None:
    """The checkpoint that a run is to go on from; None at its beginning. BadInput if its folder holds another run.

    The first process reads it, for all.
    """
    saved = from_first(checkpoint.load(run.folder) if is_first() else None)
    if saved:
        checkpoint.check_same_run(saved, run.settings, run.folder)
    elif (run.folder / trace_file.FILE).exists():
        raise BadInput(
            f"{run.folder} holds a {trace_file.FILE} and no {checkpoint.FILE} to go on from: give another folder"
        )
    return saved


def is_finished(run: Run, saved: dict[str, Any] | None) -> bool:
    """Whether the run came to its end, which is said then. A run of fewer epochs has not."""
    if not saved or not from_first((run.folder / trace_file.FILE).exists()):
        return False
    if saved["recorder"]["settings"]["epochs"] != run.config.epochs:
        return False
    if is_first():
        trace_file.load(run.folder)
        print(f"{run.folder} is finished, after {len(saved['recorder']['losses'])} steps")
    return True
