"""Going on with a run: its command line, and the checkpoint in its folder."""

import os
import re
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig

from xent.cli.compose import CONFIGS, Run, configuration_flags
from xent.cli.paths import shown
from xent.cli.together import from_first
from xent.cli.torchrun import started_together
from xent.recording import trace_file
from xent.recording.errors import BadInput
from xent.recording.processes import is_first
from xent.runs import checkpoint
from xent.runs.hydra_grammar import quoted
from xent.runs.traces import SWEEP

OWN_FOLDER = re.compile(r"""^(hydra\.(?:run|sweep)\.dir=["']?)~(?=/|$|["'])""")  # the home of who gives the command


def resumed(arguments: list[str]) -> list[str]:
    """`resume=FOLDER ...` as the command line that the run in that folder was begun with, and what else is given.

    It goes on with as many processes as torchrun starts, or else with as many as before.

    What would import and run code, or configure Hydra, is not taken from a file: it has to be given again. BadInput if
    it was not, or the folder holds no run to go on with.
    """
    arguments = [OWN_FOLDER.sub(lambda found: found[1] + os.path.expanduser("~"), each) for each in arguments]
    parsed = get_args_parser().parse_intermixed_args(arguments)
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    resume = [override for override in parsed.overrides if override.startswith("resume=")]
    if not resume:
        return [*parsed.overrides, *flags]  # which may stand anywhere, and for Hydra may not
    given = [override for override in parsed.overrides if override not in resume]
    given_as = resume[-1].removeprefix("resume=")
    folder = Path(os.path.expanduser(given_as)).absolute()
    if parsed.multirun or (folder / SWEEP).exists():
        raise BadInput(
            f"resume={given_as}: a sweep is finished by its own command with hydra.sweep.dir={quoted(given_as)}"
        )
    saved = checkpoint.load(folder)
    if saved is None:
        found = f"no {checkpoint.FILE} is there" if folder.is_dir() else "there is no such folder"
        raise BadInput(f"resume={given_as}: {found}, expected the folder of a run")
    replaced = "processes", "data.root"
    overrides = [each for each in saved["overrides"] if each not in given and _key(each) not in replaced]
    processes, root = (saved["recorder"]["settings"][key] for key in replaced)
    if Path(root) != CONFIGS.parent / "data" and Path(root).exists():  # else it is the project's, wherever that is now
        overrides.append(f"data.root={quoted(root)}")
    if processes > 1 and started_together() == 1 and not any(_key(each) == "processes" for each in given):
        overrides.append(f"processes={processes}")
    for override in overrides:
        if not _is_harmless(override):
            raise BadInput(f"resume={given_as}: that run was given {override}; if you trust it, give it again")
    return [*overrides, *given, f"hydra.run.dir={quoted(str(folder))}", *flags]


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _is_harmless(override: str) -> bool:
    return not ("_target_" in override or "${" in override or override.lstrip("+~").startswith(("hydra", "-")))


def how_to_go_on(folder: Path) -> str:
    """The command that goes on with the run of this job, with what is not taken from its folder."""
    if not HydraConfig.initialized():  # before a sweep
        return checkpoint.how_to_resume(shown(folder))
    job = HydraConfig.get()
    again = [override for override in job.overrides.task if not _is_harmless(override)]
    return checkpoint.how_to_resume(shown(folder), *configuration_flags(job), *again)


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
