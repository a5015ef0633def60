"""A sweep whose runs are trained at once, in processes of their own, by Hydra's launchers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest
import torch

from tests.helpers.commands import PROJECT, command, small, train_py
from tests.helpers.runs import differences, judged

JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SUBMITIT = ["hydra/launcher=submitit_local"]
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


@pytest.mark.parametrize("how", [JOBLIB, SUBMITIT], ids=["joblib", "submitit"])
def test_runs_of_a_parallel_sweep_do_not_disturb_each_other(how: list[str], tmp_path: Path) -> None:
    overrides = ["loss=torch,scratch", *small(nudge="0,1", precision="float64", seed=0)]
    into = f"hydra.sweep.dir={tmp_path / 'parallel'}"
    assert train_py("-m", *overrides, f"hydra.sweep.dir={tmp_path / 'serial'}").returncode == 0
    result = command("train.py", "-m", *overrides, into, *how, OMP_NUM_THREADS=str(torch.get_num_threads()))
    assert (result.returncode, result.stderr) == (0, "")
    report = (tmp_path / "parallel" / "comparison" / "report.md").read_text()
    assert f"\npython train.py -m {' '.join([*overrides, *how])}\n" in report
    lines = result.stdout.splitlines()
    assert lines[0].startswith("4 runs of model=mlp data=mnist device=cpu in ")
    if how is JOBLIB:
        named = [re.fullmatch(r"(\d) of 4, (loss=\w+ nudge=\d): test loss .*", line) for line in lines[1:5]]
        assert {each and each.groups() for each in named} == {
            *(("1", "loss=torch nudge=0"), ("2", "loss=torch nudge=1")),
            *(("3", "loss=scratch nudge=0"), ("4", "loss=scratch nudge=1")),
        }
    runs = [path.name for path in (tmp_path / "serial").glob("loss=*")]
    assert len(runs) == 4
    for name in runs:
        assert differences(tmp_path / "serial" / name, tmp_path / "parallel" / name) == []
    assert judged(tmp_path / "serial" / "comparison") == judged(tmp_path / "parallel" / "comparison")


@pytest.mark.parametrize("how", [[], JOBLIB], ids=["one by one", "joblib"])
def test_ctrl_c_ends_a_sweep_with_one_line_and_it_is_finished_by_the_same_command(
    how: list[str], tmp_path: Path
) -> None:
    of_each = small(max_steps=400, checkpoint_every=10)
    swept = ["-m", "loss=torch,scratch", "nudge=0,1", *of_each, *how]
    into = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    with subprocess.Popen(
        [sys.executable, "train.py", *swept, into],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not any(tmp_path.glob("sweep/*/checkpoint.previous.pt")):
            sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    goes_on = f"hydra.sweep.dir={os.path.relpath(tmp_path / 'sweep', PROJECT)}"
    assert errors.splitlines() == [f"stopped; to go on: the same command with {goes_on}"]
    assert len(list(tmp_path.glob("sweep/*/trace.npz"))) < 4
    again = command("train.py", *swept, into)
    assert (again.returncode, again.stderr) == (0, "")
    plain = train_py("loss=scratch", "nudge=1", *of_each, f"hydra.run.dir={tmp_path / 'plain'}")
    assert plain.returncode == 0, plain.stderr
    (other,) = tmp_path.glob("sweep/loss=scratch,nudge=1*")
    assert differences(tmp_path / "plain", other) == []


def test_a_process_that_is_killed_ends_the_sweep_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "kills.py").write_text(KILLED)
    swept = ["-m", "loss=custom", "loss._target_=kills.killed", *small(seed="0,1", max_steps=40)]
    into = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    result = command("train.py", *swept, into, *JOBLIB, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("a training process was killed, perhaps for lack of memory; to go on: the same")
