"""Whatever goes wrong, said in one line: what was given, what was expected, what to do."""

import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from xent.cli.compose import CONFIGS
from xent.cli.paths import shown
from xent.cli.progress import Sweep
from xent.cli.resume import how_to_go_on
from xent.cli.together import OtherEnded, Told, ending_at_once
from xent.cli.torchrun import is_silent, tell
from xent.recording.errors import BadInput, Stopped
from xent.runs import traces
from xent.runs.hydra_grammar import quoted

TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def errors_of_a_run(folder: Path, swept: bool) -> Iterator[None]:
    """End with what went wrong in a run, in one line, and take its folder back if nothing was written there."""
    try:
        yield
    except (BadInput, HydraException, OmegaConfBaseException) as error:
        _discard(folder)
        _refuse(error)
    except Stopped as error:
        if not isinstance(error, Told) and not (isinstance(error, OtherEnded) and is_silent()):
            print(f"{error}; what was trained is kept, to go on: {how_to_go_on(folder)}", file=sys.stderr)
        if swept:
            raise  # when the other runs of the sweep are trained
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _discard(folder)
        if swept:
            raise  # which ends all of the sweep
        kept = f"to go on: {how_to_go_on(folder)}" if folder.exists() else "before training began"
        tell(f"stopped; {kept}")
        raise SystemExit(130) from None
    except Exception as error:
        if isinstance(error, OSError) and folder in Path(str(error.filename)).parents:
            _discard(folder)
            _refuse(_cannot_write(error))
        # a mistake, ours or in what was named as loss._target_
        traceback.print_exception(error)
        raise SystemExit(1) from None


@contextmanager
def errors_of_a_command() -> Iterator[None]:
    """End with what went wrong outside of a run, in one line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it finds, for us to say in one line
    try:
        with ending_at_once():
            yield
    except (YAMLError, UnicodeDecodeError) as error:
        _refuse(BadInput(f"{_unreadable_yaml() or 'a configuration'} cannot be read ({error}): get it back"))
    except Stopped:
        tell("not compared: a run had to stop")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        tell(f"stopped; {_how_the_sweep_goes_on() if Sweep().runs else 'before training began'}")
        raise SystemExit(130) from None
    except BrokenExecutor:
        tell(f"a training process was killed, perhaps for lack of memory; {_how_the_sweep_goes_on()}")
        raise SystemExit(1) from None
    except Exception as error:  # Hydra could make nothing of the command line, which it says in many ways
        if isinstance(error, OSError) and not isinstance(error, HydraException):  # some of which are both
            _refuse(_cannot_write(error))
        _refuse(error)


def _how_the_sweep_goes_on() -> str:
    return f"to go on: the same command with {shlex.quote(f'hydra.sweep.dir={quoted(shown(Sweep().folder))}')}"


def _cannot_write(error: OSError) -> BadInput:
    if not error.filename:  # of the terminal, say
        return BadInput(f"cannot write ({error.strerror})")
    return BadInput(f"cannot write {error.filename} ({error.strerror}): give another folder as hydra.run.dir=...")


def _discard(folder: Path) -> None:
    """Take back the folder that Hydra made for a run, and for its sweep, if nothing was written there."""
    with suppress(OSError):  # it holds something, or is gone
        folder.rmdir()
    with suppress(OSError):
        if [path.name for path in folder.parent.iterdir()] == [traces.SWEEP]:
            shutil.rmtree(folder.parent)


def _unreadable_yaml() -> Path | None:
    """The file of configs/ that is damaged."""
    for file in CONFIGS.rglob("*.yaml"):
        try:
            OmegaConf.load(file)
        except (YAMLError, UnicodeDecodeError, OSError):
            return file
    return None


def _refuse(error: Exception) -> NoReturn:
    """End with the error in one line, or with all of it where that is wanted."""
    if TRACEBACK_WANTED:
        traceback.print_exception(error)
        raise SystemExit(2)
    message = str(error)
    if isinstance(error, HydraException) and error.__cause__ and str(error.__cause__) not in message:
        message += f": {error.__cause__}"
    tell(" ".join(message.partition("Config search path")[0].split()))
    raise SystemExit(2)
