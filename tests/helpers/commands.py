"""Runs and commands, as the tests start them."""

import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

from train import train
from xent.cli.compose import Run, composed_run
from xent.recording import trace_file
from xent.recording.trace import Trace

PROJECT = Path(__file__).parents[2]


def composed(*overrides: str) -> tuple[DictConfig, dict[str, str]]:
    """A configuration as the command line composes it, and the choice of every group."""
    with initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, choices


def run_of(folder: Path, *overrides: str) -> Run:
    """A run on the project's MNIST that is to be trained."""
    given = [f"data.root={PROJECT / 'data'}", *overrides]
    return composed_run(*composed(*given), given, folder, swept=False)


def trained(folder: Path, *overrides: str) -> Trace:
    """The trace of a run on the project's MNIST, trained in this process."""
    train(run_of(folder, *overrides))
    return trace_file.load(folder)


def command(*arguments: str, cwd: Path = PROJECT, **environment: str) -> CompletedProcess[str]:
    """A command of the project, as a person runs it: `train.py ...` or `-m xent.compare ...`."""
    environment = os.environ | environment
    arguments = (sys.executable, *arguments)
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def train_py(*arguments: str) -> CompletedProcess[str]:
    """`python train.py ...` in this process, which has imported PyTorch already."""
    output, errors, code = StringIO(), StringIO(), 0
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setenv("HYDRA_FULL_ERROR", "0")  # train.py sets it, for its process
        patch.setattr(sys, "argv", ["train.py", *arguments])
        try:
            runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
    return CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def the_line(result: CompletedProcess[str]) -> str:
    """The one line that a refused command says, having exited with 2 and without a traceback."""
    assert result.returncode == 2, result
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, lines
    return lines[0]


def small(**changes: Any) -> list[str]:
    """Overrides for the fastest run there is, with `changes`."""
    return [f"{key}={value}" for key, value in {"model": "mlp", "model.width": 16, "max_steps": 8, **changes}.items()]
