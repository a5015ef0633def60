"""The commands of the README, run as a person runs them, and what they say to bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.commands import PROJECT, command, compare_py, small, the_line, train_py
from tests.helpers.runs import judged
from xent.recording.trace import load

DATA = f"data.root={PROJECT / 'data'}"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep over two losses."""
    folder = tmp_path_factory.mktemp("outputs") / "sweep"
    overrides = small(max_steps=50, log_every=10, seed="0")
    result = command("train.py", "-m", "loss=torch,scratch", *overrides, f"hydra.sweep.dir={folder}")
    assert result.returncode == 0, result.stderr
    no_floor = "Not known: there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed."
    assert no_floor in result.stdout.splitlines()
    return folder


def test_a_sweep_leaves_a_folder_a_run_and_their_comparison(sweep: Path) -> None:
    changed = ",".join(small(max_steps=50, log_every=10, seed="0"))
    runs = {f"loss={loss},{changed}" for loss in ("torch", "scratch")}
    assert {path.name for path in sweep.iterdir()} == runs | {"comparison", "multirun.yaml"}
    for run in runs:
        files = sorted(path.name.split(".tfevents")[0] for path in (sweep / run).iterdir())
        assert files == [".hydra", ".lock", "checkpoint.previous.pt", "checkpoint.pt", "events.out", "trace.npz"]
    files = sorted(path.name.split(".tfevents")[0] for path in (sweep / "comparison").iterdir())
    assert files == ["curves", "curves.png", "events.out", "report.md", "verdict.json"]
    (figures,) = judged(sweep / "comparison").values()
    assert 0 < figures["gap"]["50"] < 1e-2


def test_tensorboard_reads_the_same_tags_at_the_same_steps_in_both_runs(sweep: Path) -> None:
    def tags(run: Path) -> dict[str, list[int]]:
        events = EventAccumulator(str(run)).Reload()
        assert "settings/text_summary" in events.Tags()["tensors"]
        assert "_hparams_/session_start_info" in events.summary_metadata
        assert "_hparams_/session_end_info" in events.summary_metadata
        return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    one, other = (tags(run) for run in sweep.glob("loss=*"))
    assert one == other
    every_ten = [10, 20, 30, 40, 50]
    assert one == {
        "train/loss": every_ten,
        "train/accuracy": every_ten,
        "train/gradient_norm": every_ten,
        "train/learning_rate": every_ten,
        "train_parity/loss_error": every_ten,
        "train_parity/gradient_error": every_ten,
        "train_parity/reference_loss_error": every_ten,
        "train_parity/reference_gradient_error": every_ten,
        "test/loss": [50],
        "test/accuracy": [50],
    }


def test_runs_are_compared_whenever_they_were_trained(sweep: Path, tmp_path: Path) -> None:
    result = command("-m", "xent.compare", *map(str, sweep.glob("loss=*")), "--output", str(tmp_path))
    assert result.returncode == 2, "not to be judged without nudged runs"
    assert judged(tmp_path) == judged(sweep / "comparison")


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small proof of two losses named on the command line, one of them wrong."""
    folder = tmp_path_factory.mktemp("outputs") / "proof"
    losses = ["loss=torch,custom,impostor/temperature", "loss._target_=xent.ArticleCrossEntropyLoss"]
    overrides = small(max_steps=16, precision="float64", seed=0, nudge="0,1,2")
    result = train_py("-m", "+experiment=proof", *losses, *overrides, f"hydra.sweep.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def test_the_proof_tells_a_right_loss_from_a_wrong_one(proof: Path) -> None:
    figures = json.loads((proof / "comparison" / "verdict.json").read_text())
    assert {name: each["verdict"] for name, each in figures["candidates"].items()} == {
        "ArticleCrossEntropyLoss": "same within rounding",
        "impostor/temperature": "different",
    }
    target = figures["references"]["torch"]["settings"]["loss._target_"]
    assert target == "torch.nn.CrossEntropyLoss", "loss._target_ is that of loss=custom alone"


def test_a_nudged_run_writes_no_events(proof: Path) -> None:
    """It measures, and is no curve to look at."""
    assert len(list(proof.glob("loss=torch,*"))) == 3
    assert [file.parent.name.split(",")[1] for file in proof.glob("loss=torch,*/events*")] == ["nudge=0"]


def test_the_exit_code_of_a_comparison_tells_the_verdict(proof: Path, tmp_path: Path) -> None:
    def exit_code(*losses: str) -> int:
        runs = [folder for loss in losses for folder in proof.glob(f"loss={loss},*")]
        return compare_py(*runs, "--output", tmp_path).returncode

    assert exit_code("torch", "custom") == 0
    assert exit_code("torch", "impostor*") == 1
    (reference,) = proof.glob("loss=torch,*nudge=0*")
    result = compare_py(reference, reference, "--output", tmp_path)
    assert result.returncode == 0
    assert "bitwise identical" in result.stdout
    assert "not used" not in result.stdout


def test_another_number_of_threads_gets_a_verdict(proof: Path, tmp_path: Path) -> None:
    """Of the same loss: with more or fewer threads, sums are added up in another order."""
    overrides = small(max_steps=16, precision="float64", seed=0, **{"optimizer.lr": 0.1})  # as the proof has it
    threads = "2" if torch.get_num_threads() == 1 else "1"
    command("train.py", *overrides, f"hydra.run.dir={tmp_path / 'run'}", OMP_NUM_THREADS=threads)
    runs = [str(folder) for folder in proof.glob("loss=torch,*")]
    by = ["--by", "machine.threads", "--reference", torch.get_num_threads()]
    result = compare_py(*runs, tmp_path / "run", *by, "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "same within rounding" in result.stdout or "bitwise identical" in result.stdout
    line = the_line(compare_py(*proof.glob("loss=custom,*nudge=0*"), tmp_path / "run"))
    assert "are not matched, they differ in machine.threads (" in line
    assert "nudge" not in line.partition("they differ")[2]


def test_one_run_is_named_by_what_its_command_line_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = train_py("loss=article", *small(), DATA)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    assert folder.name[19:].startswith("_loss=article,model=mlp")
    assert result.stdout.splitlines()[-1] == str(Path("outputs") / folder.name)


def test_a_run_that_had_to_stop_does_not_stop_its_sweep(tmp_path: Path) -> None:
    overrides = ["-m", "loss=torch", "optimizer.lr=1e30,0.05", *small(), f"hydra.sweep.dir={tmp_path}"]
    result = train_py(*overrides)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "the loss is nan at step 2" in result.stderr
    assert result.stderr.splitlines()[-1] == "not compared: a run had to stop"
    assert [file.parent.name.split(",")[1] for file in tmp_path.glob("*/trace.npz")] == ["optimizer.lr=0.05"]


def test_a_sweep_without_a_reference_says_why_there_is_no_comparison(tmp_path: Path) -> None:
    result = train_py("-m", "loss=scratch,article", *small(max_steps=2), f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "no run has loss=torch: train one, or compare with --reference, one of article, scratch" in result.stderr
    assert len(list(tmp_path.glob("*/trace.npz"))) == 2


def test_a_single_run_imports_nothing_to_compare_with(tmp_path: Path) -> None:
    """Plots and statistics would make up a tenth of its start."""
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', 'hydra.run.dir={tmp_path / 'run'}', *{small()!r}]\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, *sys.modules)\n"
    )
    result = command("-c", script)
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.splitlines()[-1].split())
    assert "xent.training.loop" in imported
    assert not imported & {"matplotlib", "pandas", "scipy", "xent.compare", "xent.verdict", "xent.report"}


def test_runs_that_are_not_matched(sweep: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    result = train_py(*small(max_steps=50, seed=3), f"hydra.run.dir={other}")
    assert result.returncode == 0, result.stderr
    (candidate,) = sweep.glob("loss=scratch*")
    assert "they differ in seed (0 against 3)" in the_line(compare_py(candidate, other))


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
    assert errors.splitlines() == [f"stopped; to go on: {resume}"]
    monkeypatch.chdir(PROJECT)
    assert the_line(compare_py(folder)) == f"{folder} is not finished: go on with it, {resume}"


def test_the_fast_recipe_learns_mnist_in_an_epoch(tmp_path: Path) -> None:
    result = train_py("+experiment=fast", "loss=scratch", DATA, f"hydra.run.dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    trace = load(tmp_path / "run")
    assert list(trace.tests) == [trace.step], "tested at the end alone"
    assert trace.tests[trace.step][1] > 0.985
