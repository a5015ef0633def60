"""A sweep whose runs are trained at once, in processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from tests.helpers.commands import PROJECT, command, small
from tests.helpers.runs import differences, judged

SIDE_BY_SIDE = ["hydra/launcher=side_by_side", "hydra.launcher.n_jobs=2"]
KILLED = """
import os, signal
from torch import nn
calls = 0
def killed(input, target):
    global calls
    calls += 1
    if calls > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.cross_entropy(input, target)
"""


def test_runs_of_a_parallel_sweep_do_not_disturb_each_other(tmp_path: Path) -> None:
    overrides = small(nudge="0,1", precision="float64", seed=0)
    launchers = {"serial": [], "parallel": SIDE_BY_SIDE, "on a cluster": ["hydra/launcher=submitit_local"]}
    for name, how in launchers.items():
        into = f"hydra.sweep.dir={tmp_path / name}"
        result = command("train.py", "-m", "loss=torch,scratch", *overrides, into, *how, OMP_NUM_THREADS="1")
        assert result.returncode == 0, result.stderr
        report = (tmp_path / name / "comparison" / "report.md").read_text()
        assert f"python train.py -m loss=torch,scratch {' '.join([*overrides, *how])}\n" in report
        assert "3 of 4, loss=scratch nudge=0: test loss" in result.stdout or name == "on a cluster"
    runs = [path.name for path in (tmp_path / "serial").glob("loss=*")]
    assert len(runs) == 4
    for launcher in list(launchers)[1:]:
        for name in runs:
            assert differences(tmp_path / "serial" / name, tmp_path / launcher / name) == []
        assert judged(tmp_path / "serial" / "comparison") == judged(tmp_path / launcher / "comparison")


@pytest.mark.parametrize("how", [[], SIDE_BY_SIDE, ["processes=2"]], ids=["one by one", "side by side", "processes"])
def test_ctrl_c_ends_a_sweep_with_one_line(how: list[str], tmp_path: Path) -> None:
    into = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    swept = ["-m", "loss=torch", *small(nudge="0,1,2,3", max_steps=10_000, epochs=100), into]
    with subprocess.Popen(
        [sys.executable, "train.py", *swept, *how],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not any(tmp_path.glob("sweep/*/events*")):
            sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    goes_on = f"hydra.sweep.dir={os.path.relpath(tmp_path / 'sweep', PROJECT)}"
    assert errors.splitlines() == [f"stopped; to go on: the same command with {goes_on}"]


def test_a_process_that_is_killed_ends_the_sweep_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "kills.py").write_text(KILLED)
    swept = ["-m", "loss=custom", "loss._target_=kills.killed", *small(seed="0,1", max_steps=40)]
    into = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    result = command("train.py", *swept, into, *SIDE_BY_SIDE, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("a training process was killed, perhaps for lack of memory; to go on: the same")
