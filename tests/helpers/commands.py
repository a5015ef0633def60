import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

from train import train
from xent.cli.compose import Run, compose_run
from xent.recording.trace import Trace, load

PROJECT = Path(__file__).parents[2]


def composed(*overrides: str) -> tuple[DictConfig, HydraConf]:
    """A configuration as the command line composes it, and Hydra's own."""
    with initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    with open_dict(cfg):
        hydra = cfg.pop("hydra")
    return cfg, hydra


def run_of(folder: Path, *overrides: str) -> Run:
    cfg, hydra = composed(f"data.root={PROJECT / 'data'}", *overrides)
    return compose_run(cfg, hydra, folder, is_swept=False)


def trained(folder: Path, *overrides: str) -> Trace:
    """The trace of a run on the project's MNIST, trained in this process."""
    train(run_of(folder, *overrides))
    return load(folder)


def command(*arguments: str, cwd: Path = PROJECT, **environment: str) -> CompletedProcess[str]:
    """A command of the project, as a person runs it: `train.py ...` or `-m xent.compare ...`."""
    words, env = (sys.executable, *arguments), os.environ | environment
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def train_py(*arguments: str) -> CompletedProcess[str]:
    """`python train.py ...` in this process, which has imported PyTorch already."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "0")  # train.py sets it, for its process
        patch.setattr(sys, "argv", ["train.py", *arguments])
        return _ran(arguments, lambda: runpy.run_path(str(PROJECT / "train.py"), run_name="__main__"))


def compare_py(*arguments: object) -> CompletedProcess[str]:
    """`python -m xent.compare ...` in this process."""
    from xent.compare import main  # which takes a second: of matplotlib and TensorBoard

    words = [str(argument) for argument in arguments]
    return _ran(words, lambda: main(words))


def _ran(arguments: Sequence[str], run: Callable[[], object]) -> CompletedProcess[str]:
    """What a command printed, and its exit code."""
    output, errors, code, handler = StringIO(), StringIO(), 0, signal.getsignal(signal.SIGINT)
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGINT, handler)  # which a command ignores in the end
    return CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def succeeds(*arguments: str) -> str:
    """What `python train.py ...` prints, which comes to its end and warns of nothing."""
    result = train_py(*arguments)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def the_line(result: CompletedProcess[str], run: Path | None = None, code: int = 2) -> str:
    """The one line of errors of a command, without a traceback; with RUN for the folder of a run."""
    assert result.returncode == code, result
    assert "Traceback" not in result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line]
    return line.replace(os.path.relpath(run), "RUN").replace(str(run), "RUN") if run else line


def files_of(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def small(**changes: Any) -> list[str]:
    """Overrides for the fastest run there is, with `changes`."""
    return [f"{key}={value}" for key, value in {"model": "mlp", "model.width": 16, "max_steps": 8, **changes}.items()]
