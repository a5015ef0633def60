"""Sweeps whose runs are trained at once, in processes of their own, by Hydra's launchers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from tests.helpers.commands import PROJECT, command, small, train_py
from tests.helpers.runs import differences, judged

JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SWEEP = ["-m", "loss=torch,scratch", *small(max_steps=150, checkpoint_every=10, nudge="0,1", precision="float64")]
THREADS = str(torch.get_num_threads())


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep, one run after the other. To be read only."""
    folder = tmp_path_factory.mktemp("sweeps") / "serial"
    assert train_py(*SWEEP, f"hydra.sweep.dir={folder}").returncode == 0
    return folder


def assert_same(sweep: Path, serial: Path) -> None:
    runs = [path.name for path in serial.glob("loss=*")]
    assert len(runs) == 4
    assert [differences(serial / name, sweep / name) for name in runs] == [[]] * 4
    assert judged(serial / "comparison") == judged(sweep / "comparison")


def test_ctrl_c_ends_a_sweep_of_joblibs_and_the_same_command_finishes_it(serial: Path, tmp_path: Path) -> None:
    """Its runs do not disturb each other."""
    sweep = tmp_path / "sweep"
    arguments = ["train.py", *SWEEP, f"hydra.sweep.dir={sweep}", *JOBLIB]
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": THREADS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not any(sweep.glob("*/checkpoint.previous.pt")):
            sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    again = f"the same command with hydra.sweep.dir={os.path.relpath(sweep, PROJECT)}"
    assert errors == f"stopped; to go on: {again}\n"
    finished = list(sweep.glob("*/trace.npz"))
    assert len(finished) < 4

    result = command(*arguments, OMP_NUM_THREADS=THREADS)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("4 runs of model=mlp data=mnist device=cpu in ")
    results = re.findall(r"^(\d of 4, loss=\w+ nudge=\d): test loss ", result.stdout, re.MULTILINE)
    names = ["loss=torch nudge=0", "loss=torch nudge=1", "loss=scratch nudge=0", "loss=scratch nudge=1"]
    assert {*results} <= {f"{number} of 4, {name}" for number, name in enumerate(names, 1)}
    assert len(results) == 4 - len(finished)
    assert f"\npython train.py {' '.join([*SWEEP, *JOBLIB])}\n" in (sweep / "comparison" / "report.md").read_text()
    assert_same(sweep, serial)


@pytest.mark.extra
def test_a_sweep_of_submitits_is_that_of_one_process(serial: Path, tmp_path: Path) -> None:
    launcher = "hydra/launcher=submitit_local"
    result = command("train.py", *SWEEP, f"hydra.sweep.dir={tmp_path}", launcher, OMP_NUM_THREADS=THREADS)
    assert (result.returncode, result.stderr) == (0, "")
    assert_same(tmp_path, serial)


def test_a_killed_process_ends_a_sweep_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*arguments: object) -> None:
        raise TerminatedWorkerError

    monkeypatch.setattr("joblib.Parallel.__call__", call)
    result = train_py("-m", "seed=0,1", *small(), f"hydra.sweep.dir={tmp_path}", *JOBLIB)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("a training process was killed, perhaps for lack of memory; to go on: the same command with")
