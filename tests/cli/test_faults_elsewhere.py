"""What a person sees when something happened to a trace, the data or a configuration, or happens while a run trains."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import PROJECT, command, small, train_py
from tests.helpers.faults import (
    SMALL,
    check,
    cut_short,
    cut_within_a_key,
    deleted,
    emptied,
    flipped_in_a_byte,
    inflict,
    made_malicious,
    made_unreadable,
    name_of,
    replaced_by_the_labels,
)

Fault = Callable[[Path], object]

TRACES = {
    cut_short: "{run}/trace.npz cannot be read (...): train the run again",
    emptied: "{run}/trace.npz cannot be read (...): train the run again",
    flipped_in_a_byte: "{run}/trace.npz cannot be read (...): train the run again",
    made_unreadable: "{run}/trace.npz cannot be read (...): train the run again",
    made_malicious: "{run}/trace.npz cannot be read (...allow_pickle=False...): train the run again",
    deleted: "{run} is not finished: go on with it, python train.py resume=...run",
}


@pytest.mark.parametrize("happens", TRACES, ids=name_of)
def test_a_damaged_trace_is_not_compared(happens: Fault, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    inflict(happens, run, "trace.npz")
    check(command("-m", "xent.compare", str(run), str(tmp_path / "other")), TRACES[happens], 2, run)


@pytest.mark.parametrize("file", ["train-images", "train-labels", "t10k-images"])
@pytest.mark.parametrize(
    "happens", [cut_short, emptied, flipped_in_a_byte, replaced_by_the_labels, made_unreadable], ids=name_of
)
def test_damaged_data_is_not_trained_on(happens: Fault, file: str, tmp_path: Path) -> None:
    data = shutil.copytree(PROJECT / "data", tmp_path / "data")
    inflict(happens, data / "MNIST" / "raw", f"{file}*.gz")
    result = train_py(*small(), f"data.root={data}", f"hydra.run.dir={tmp_path / 'run'}")
    says = "{run}/MNIST/raw/" + file + "....gz is damaged: its MD5 is not ..., as published; delete it and get it again"
    check(result, says, 2, data)
    assert not (tmp_path / "run").exists()


CONFIGS = [
    ("train.yaml", emptied, "Could not override 'model'. No match in the defaults list. ..."),
    ("train.yaml", cut_within_a_key, "a file in configs/ cannot be read (while scanning ...): get it back"),
    (
        "train.yaml",
        made_unreadable,
        "Cannot find primary config 'train'. Check that it's in your config search path.",
    ),
    (
        "loss/torch.yaml",
        emptied,
        "{run}/loss/torch.yaml has no _target_: expected the name of a class or function, package.module.name",
    ),
    ("loss/torch.yaml", flipped_in_a_byte, "a file in configs/ cannot be read (...): get it back"),
    ("model/mlp.yaml", deleted, "In 'train': Could not find 'model/mlp' Available options in 'model': cnn resnet"),
]


@pytest.mark.parametrize(("file", "happens", "says"), CONFIGS, ids=name_of)
def test_a_damaged_configuration_is_refused(file: str, happens: Fault, says: str, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "train.py", tmp_path)
    shutil.copytree(PROJECT / "xent", tmp_path / "xent")  # which looks for the damaged file beside itself
    configs = shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    inflict(happens, configs, file)
    check(command(str(tmp_path / "train.py"), *SMALL, cwd=tmp_path), says, 2, configs)
    assert not list(tmp_path.glob("outputs/*"))


WHILE_TRAINING = {
    "NaN": (
        ["optimizer.lr=1e30"],
        "the loss is nan at step 2, seen at step 2: learning rate ..., largest logit ..., largest gradient ...; "
        "the batch is in {run}/nonfinite.pt; train with a smaller optimizer.lr, or with on_nonfinite=continue; "
        "what was trained is kept, to go on: python train.py resume=...run",
        1,
    ),
    "NaN, go on": (["optimizer.lr=1e30", "on_nonfinite=continue"], "", 0),
    "too little memory": (
        ["loss=custom", "loss._target_=tests.helpers.faulty_losses.OutOfMemory"],
        "a batch does not fit into memory: give accumulate=2, or more; what was trained is kept, "
        "to go on: the same command with hydra.run.dir=...run",
        1,
    ),
    "nothing learned": (
        ["optimizer.lr=1e-30", "batch_size=2000", "max_steps=30"],
        "the loss did not fall in 30 steps: this training learns nothing",
        0,
    ),
}


@pytest.mark.parametrize("what", WHILE_TRAINING)
def test_what_happens_while_a_run_trains_is_said_in_a_line(what: str, tmp_path: Path) -> None:
    overrides, says, exits_with = WHILE_TRAINING[what]
    run = tmp_path / "run"
    result = command("train.py", *SMALL, *overrides, f"hydra.run.dir={run}", PYTHONPATH=str(PROJECT))
    check(result, says, exits_with, run)
    if what == "NaN":
        saved = torch.load(run / "nonfinite.pt", weights_only=True)
        assert saved["step"] == 2
        assert (saved["images"].shape, saved["target"].shape) == ((128, 1, 28, 28), (128,))
        assert not saved["loss"].isfinite()
        check(command("train.py", f"resume={run}", "on_nonfinite=continue"), "", 0, run)


def test_tensorboard_is_for_this_machine_alone() -> None:
    shown = subprocess.run(["make", "-n", "tensorboard"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "--host 127.0.0.1" in shown.stdout
