"""Ctrl-C, and torchrun's signal to end, while a run trains."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.helpers.commands import PROJECT, compare_py, small, the_line, train_py
from xent.cli.accompany import _interrupted_between_steps as interrupted_between_steps


def test_ctrl_c_waits_for_the_end_of_a_step_and_a_second_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupted_between_steps() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)  # raises nothing
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_of_torchruns_processes_rank_0_alone_is_interrupted_by_either_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RANK", "0")
    for number in (signal.SIGINT, signal.SIGTERM):
        for rank in (0, 1):
            monkeypatch.setattr("xent.cli.accompany.rank", lambda rank=rank: rank)
            with interrupted_between_steps() as asked:
                signal.raise_signal(number)
                assert asked() == (rank == 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_which_gets_no_signals_nothing_is_held_back() -> None:
    def train() -> tuple[object, bool]:
        with interrupted_between_steps() as asked:
            return signal.getsignal(signal.SIGINT), asked()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(train).result() == (signal.getsignal(signal.SIGINT), False)


def test_ctrl_c_leaves_a_run_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    arguments = ["train.py", "epochs=100", "model=mlp", "log_every=5", f"hydra.run.dir={folder}"]
    process = subprocess.Popen([sys.executable, *arguments], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any(folder.glob("events*")):
        sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    resume = f"python train.py resume={os.path.relpath(folder, PROJECT)}"
    assert errors == f"stopped; to go on: {resume}\n"
    monkeypatch.chdir(PROJECT)
    assert the_line(compare_py(folder)) == f"{folder} is not finished: go on with it, {resume}"


def interrupted(logits: Tensor, target: Tensor) -> Tensor:
    """A loss at which Ctrl-C is pressed while a run trains, not while the loss is tried."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.raise_signal(signal.SIGINT)
    return cross_entropy(logits, target)


def test_ctrl_c_ends_a_sweep_with_one_line(tmp_path: Path) -> None:
    """That it is finished by the same command: test_side_by_side.py."""
    loss = ["loss=custom", f"loss._target_={__name__}.interrupted"]
    result = train_py("-m", *loss, *small(nudge="0,1"), f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 130
    assert result.stderr == f"stopped; to go on: the same command with hydra.sweep.dir={os.path.relpath(tmp_path)}\n"
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 1
