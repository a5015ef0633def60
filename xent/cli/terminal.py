"""What a person sees in the terminal: start and result of a run, and every error in one line."""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from xent.cli.compose import Run
from xent.cli.distributed import tell
from xent.cli.hints import in_a_sentence
from xent.cli.progress import Sweep, show_sweep
from xent.cli.resume import SWEEP, how_to_resume, shown
from xent.recording import BadInput, Recorder, Stopped
from xent.recording.files import cannot_write, is_full
from xent.recording.output import outlive_readers
from xent.recording.trace import Trace

COMPILER = "torch._dynamo.exc", "torch._inductor.exc"  # its errors, by name: importing them takes a second
KEPT = "what was trained is kept"
TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") == "1"


def print_start(run: Run, recorder: Recorder) -> None:
    """Print what a single run is, and from which step it resumes. For a sweep, its first line says that."""
    if run.is_swept:
        return
    what = " ".join(f"{key}={run.settings[key]}" for key in ("loss", "model", "data", "device"))
    step = recorder.steps_made
    before = [setting for changed in recorder.trace.settings.get("before", []) for setting in changed.items()]
    what += f", with {', '.join(f'{key}={value}' for key, value in before)} before" if before else ""
    print(f"{what}: {f'resuming after step {step} of' if step else 'training for'} {recorder.steps} steps", flush=True)


def print_result(run: Run, trace: Trace, made: int, seconds: float) -> None:
    """Print the result of a run in a line, and the folder that holds the rest; of a sweep, how far it is.

    Args:
        made: the steps made in these seconds; those before a run resumed are not among them.
    """
    if run.is_swept:
        show_sweep(run)
        return
    loss, accuracy = trace.tests[trace.step]
    last = f", the last {made}" if made < trace.step else ""
    print(f"test loss {loss:.4f}, accuracy {accuracy:.2%}, after {trace.step} steps{last} in {seconds:.1f} s")
    print(shown(run.folder), flush=True)


@contextmanager
def errors_of_a_job(folder: Path, is_swept: bool) -> Iterator[None]:
    """End with an error of a run in one line, and remove its folder if nothing was written there.

    Raises:
        SystemExit: with 2 for bad input, 1 for a run that had to stop or a bug, 130 for Ctrl-C.
        Stopped: a run of a sweep had to stop.
        KeyboardInterrupt: Ctrl-C in a sweep.
    """
    outlive_readers()  # in a process of a launcher too
    try:
        yield
    except (BadInput, HydraException, OmegaConfBaseException) as error:
        _refuse(error)
    except KeyboardInterrupt:
        if is_swept:
            raise  # ends the whole sweep
        _end_interrupted(folder if any(folder.glob("checkpoint*")) else None)
    except Exception as error:
        if reason := _reason_to_stop(error, folder):
            if is_swept:
                tell(reason)
                raise Stopped from error  # Hydra raises it after the other runs of the sweep
            tell(f"{reason}; {KEPT}, {how_to_resume(folder)}")
            raise SystemExit(1) from None
        is_in_folder = isinstance(error, OSError) and str(error.filename).startswith(str(folder))
        if is_in_folder or type(error).__module__ in COMPILER:
            _refuse(error)
        traceback.print_exception(error)  # a bug, ours or in a custom loss
        raise SystemExit(1) from None
    finally:
        _discard_if_empty(folder)


@contextmanager
def errors_of_a_command() -> Iterator[None]:
    """End with an error outside of a run in one line.

    Raises:
        SystemExit: with 2 for a wrong command line, 1 for a run that had to stop, 130 for Ctrl-C.
    """
    outlive_readers()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, and we print them in one line
    try:
        yield
    except Stopped:
        tell(f"not compared, since a run had to stop; {KEPT}, {how_to_resume(Sweep().folder)}")
        raise SystemExit(1) from None
    except BrokenExecutor:
        tell(f"a training process was killed, perhaps for lack of memory; {how_to_resume(Sweep().folder)}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _end_interrupted(Sweep().folder if (Sweep().folder / SWEEP).exists() else None)
    except Exception as error:  # Hydra refuses a command line in many ways
        _refuse(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave tracebacks of the interpreter's end


def _reason_to_stop(error: Exception, folder: Path) -> str:
    """Why a run had to stop that may go on another time; empty if an error is no such reason."""
    if isinstance(error, torch.OutOfMemoryError):
        return "a batch does not fit into memory: give accumulate=2, or more"
    if isinstance(error, OSError) and is_full(error):
        return str(cannot_write(folder, error))
    return str(error) if isinstance(error, Stopped) else ""


def _end_interrupted(folder: Path | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell(f"stopped; {how_to_resume(folder) if folder else 'before training began'}")
    raise SystemExit(130)


def _discard_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a run, and for its sweep, if nothing was written there."""
    for path in (folder, folder.parent):
        with suppress(OSError):  # the folder is gone
            names = [file.name for file in path.iterdir()]
            if (names == [SWEEP] and sys.exception()) or (path == folder and not names):
                shutil.rmtree(path)


def _refuse(error: Exception) -> NoReturn:
    """End with the error in one line, after its traceback if HYDRA_FULL_ERROR asks for it."""
    if TRACEBACK_WANTED:
        traceback.print_exception(error)
    message = str(error)
    if isinstance(error, HydraException):
        message = in_a_sentence(error)
    elif is_full(error):
        message = f"{message}: make room there, and give the command again"
    elif isinstance(error, OSError) and error.filename:
        message = f"cannot write {error.filename} ({error.strerror}): give another folder as hydra.run.dir=..."
    elif isinstance(error, YAMLError | UnicodeDecodeError):
        message = f"a file in configs/ cannot be read ({message}): get it back"
    elif type(error).__module__ in COMPILER:
        message = f"PyTorch cannot compile here ({message.partition(chr(10))[0]}): train with compile=false"
    tell(" ".join(message.split()))
    raise SystemExit(2)
