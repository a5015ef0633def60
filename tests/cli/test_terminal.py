"""What a person sees of `make compare`, and of the first things that one tries."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.helpers.commands import PROJECT, command, compare_py, small, the_line, train_py

PROOF = ["train.py", "-m", "+experiment=proof", "max_steps=20"]  # what make compare runs, and short
YES = "Yes: article, fused and scratch train as torch does, in float32 and float64, over three seeds."
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_a_terminal(columns: int, *arguments: str) -> str:
    """What a command of the project prints in a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color"}
    with subprocess.Popen([sys.executable, *arguments], cwd=PROJECT, env=environment, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        try:
            while more := os.read(ours, 4096):
                shown += more
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return CODES.sub("", shown.decode()).replace("\r\n", "\n")


@pytest.mark.slow
def test_in_a_terminal_of_80_columns_nothing_is_cut_and_the_answer_is_a_sentence(tmp_path: Path) -> None:
    shown = in_a_terminal(80, *PROOF, f"hydra.sweep.dir={tmp_path / 'proof'}")
    verdict = shown[shown.index(" run ") :]
    assert "…" not in verdict
    for loss in ("article", "fused", "scratch"):
        for precision in ("float32", "float64"):
            row = rf"^ {loss}, {precision} +same within rounding +[+-]\d\.\d\d +1\.15 *$"
            assert re.search(row, verdict, re.MULTILINE)
    assert YES in " ".join(verdict.split())
    assert "12 of 72, loss=torch nudge=1 seed=2 precision=float64" in shown
    assert re.search(r"^\r?70 of 72, .*loss \d", shown, re.MULTILINE)


@pytest.mark.slow
def test_without_a_terminal_a_run_is_a_line(tmp_path: Path) -> None:
    result = command(*PROOF, f"hydra.sweep.dir={tmp_path / 'proof'}")
    lines = result.stdout.splitlines()
    assert len(lines) <= 100
    assert YES in lines
    assert lines[0].startswith("72 runs of model=mlp data=mnist device=cpu in ")
    assert sum(line.partition(" of 72, ")[0].isdigit() for line in lines) == 72
    assert (tmp_path / "proof" / "comparison" / "verdict.json").stat().st_size < 20_000


def test_a_run_says_what_it_is_and_from_where_it_resumes(tmp_path: Path) -> None:
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    first = train_py(*small(batch_size=30_000, max_steps=4), "epochs=1", "device=cpu", folder).stdout.splitlines()
    assert first[0] == "loss=torch model=mlp data=mnist device=cpu: training for 2 steps"
    assert re.fullmatch(r"test loss \d\.\d{4}, accuracy \d\d?\.\d\d%, after 2 steps in \d+\.\d s", first[1])
    again = train_py(*small(batch_size=30_000, max_steps=4), "epochs=2", "device=cpu", folder).stdout.splitlines()
    assert (
        again[0] == "loss=torch model=mlp data=mnist device=cpu, with epochs=1 before: resuming after step 2 of 4 steps"
    )


def test_an_experiment_that_is_a_sweep_is_not_half_trained(tmp_path: Path) -> None:
    line = the_line(train_py("+experiment=switch", f"hydra.run.dir={tmp_path / 'run'}"))
    assert line.startswith("+experiment=switch is a sweep over loss, nudge: expected -m too, python train.py -m")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("typo", ["model=mlp,cnnn", "nudge=0,-1", "loss=torch,scrtch", "optimizer.lrr=0.1,0.2"])
def test_a_mistyped_sweep_leaves_no_folder(typo: str, tmp_path: Path) -> None:
    given = {each.partition("=")[0]: each for each in ("loss=torch,scratch", *small(nudge=0), typo)}
    the_line(train_py("-m", *given.values(), f"hydra.sweep.dir={tmp_path / 'sweep'}"))
    assert not (tmp_path / "sweep").exists()


def test_two_single_runs_are_told_to_make_a_floor_and_are_then_judged_by_it(tmp_path: Path) -> None:
    reference, own = f"hydra.run.dir={tmp_path / 'torch'}", f"hydra.run.dir={tmp_path / 'scratch'}"
    train_py("loss=torch", *small(precision="float64"), reference)
    train_py("loss=scratch", *small(precision="float64"), own)
    result = compare_py(tmp_path / "torch", tmp_path / "scratch")
    assert result.returncode == 2
    advice = "there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed"
    assert f"Not known: {advice}." in result.stdout.splitlines()
    assert list(tmp_path.glob("*_comparison/report.md"))
    floor = ["-m", "loss=torch", "nudge=0,1,2", *small(precision="float64"), f"hydra.sweep.dir={tmp_path / 'floor'}"]
    assert train_py(*floor).returncode == 0
    judged = compare_py(tmp_path / "floor", tmp_path / "scratch")
    assert judged.returncode == 0, judged.stderr
    assert "Yes: scratch trains as torch does, in float64, over one seed." in judged.stdout.splitlines()
