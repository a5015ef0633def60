"""What a person sees when something happened to a trace, the data or a configuration, or happens while a run trains."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import PROJECT, command, small
from tests.helpers.faults import (
    SMALL,
    Fault,
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
    replaced_by_another_runs,
    replaced_by_the_labels,
)
from xent.training.datasets import read

TRACES = [
    *(
        Fault("trace.npz", happens, "{run}/trace.npz cannot be read (...): train the run again", exits_with=2)
        for happens in (cut_short, emptied, flipped_in_a_byte, made_unreadable)
    ),
    Fault(
        "trace.npz",
        made_malicious,
        "{run}/trace.npz cannot be read (...allow_pickle=False...): train the run again",
        exits_with=2,
    ),
    Fault(
        "trace.npz",
        replaced_by_another_runs,
        "{run}/trace.npz is of another run than events... beside it: train the run again",
        exits_with=2,
    ),
    Fault(
        "trace.npz",
        deleted,
        "{run} is not finished: go on with it, python train.py resume=...run",
        exits_with=2,
    ),
]


@pytest.mark.parametrize("fault", TRACES, ids=name_of)
def test_comparing(fault: Fault, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    inflict(fault, run)
    check(command("-m", "xent.compare", str(run), str(tmp_path / "other")), fault.says, fault.exits_with, run)


DATA_FILES = [
    Fault(
        "train-images*.gz",
        cut_short,
        "{run}....gz is damaged: its MD5 is ..., published was ...; delete it and get it again",
        exits_with=2,
    ),
    *(
        Fault(
            f"{file}*ubyte",
            happens,
            f"{{run}}...-ubyte is not what {file}....gz holds: delete it, it will be unpacked again",
            exits_with=2,
        )
        for file, happens in (
            ("train-images", cut_short),
            ("train-labels", flipped_in_a_byte),
            ("t10k-images", emptied),
            ("t10k-images", replaced_by_the_labels),
        )
    ),
    Fault(
        "t10k-images*.gz",
        made_unreadable,
        "MNIST in ... cannot be read (...t10k....gz'): delete its folder and run again",
        exits_with=2,
    ),
]


@pytest.mark.parametrize("fault", DATA_FILES, ids=name_of)
def test_reading_data(fault: Fault, tmp_path: Path) -> None:
    data = shutil.copytree(PROJECT / "data", tmp_path / "data")
    read("MNIST", data)  # which unpacks it
    inflict(fault, data / "MNIST" / "raw")
    result = command("train.py", *small(), f"data.root={data}", f"hydra.run.dir={tmp_path / 'run'}")
    check(result, fault.says, fault.exits_with, data)
    assert not (tmp_path / "run").exists()


CONFIGS = [
    Fault("train.yaml", emptied, "Could not override 'model'. No match in the defaults list. ...", exits_with=2),
    Fault(
        "train.yaml",
        cut_within_a_key,
        "{run}/train.yaml cannot be read (while scanning ...): get it back",
        exits_with=2,
    ),
    Fault(
        "train.yaml",
        made_unreadable,
        "Cannot find primary config 'train'. Check that it's in your config search path.",
        exits_with=2,
    ),
    Fault(
        "loss/torch.yaml",
        emptied,
        "{run}/loss/torch.yaml has no _target_: expected the name of a class or function, package.module.name",
        exits_with=2,
    ),
    Fault(
        "loss/torch.yaml", flipped_in_a_byte, "{run}/loss/torch.yaml cannot be read (...): get it back", exits_with=2
    ),
    Fault(
        "model/mlp.yaml",
        deleted,
        "In 'train': Could not find 'model/mlp' Available options in 'model': cnn resnet",
        exits_with=2,
    ),
]


@pytest.mark.parametrize("fault", CONFIGS, ids=name_of)
def test_configuring(fault: Fault, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "train.py", tmp_path)
    shutil.copytree(PROJECT / "xent", tmp_path / "xent")  # which looks for the damaged file beside itself
    configs = shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    inflict(fault, configs)
    check(command(str(tmp_path / "train.py"), *SMALL, cwd=tmp_path), fault.says, fault.exits_with, configs)
    assert not list(tmp_path.glob("outputs/*"))


WHILE_TRAINING = {
    "NaN": (
        ["optimizer.lr=1e30"],
        "the loss is nan at step 2: learning rate ..., largest logit ..., largest gradient ...; "
        "the batch is in {run}/nonfinite.pt; train with a smaller optimizer.lr, or with on_nonfinite=continue; "
        "what was trained is kept, to go on: python train.py resume=...run",
        1,
    ),
    "NaN, go on": (["optimizer.lr=1e30", "on_nonfinite=continue"], "", 0),
    "too little memory": (
        ["loss=custom", "loss._target_=tests.helpers.faulty_losses.OutOfMemory"],
        "batch_size=128 does not fit into the memory of cpu: try accumulate=2; what was trained is kept, to go on: "
        "python train.py loss._target_=tests.helpers.faulty_losses.OutOfMemory resume=...run",
        1,
    ),
    "nothing learned": (
        ["optimizer.lr=1e-30", "batch_size=2000", "max_steps=30"],
        "the loss did not fall in 30 steps: this training learns nothing",
        0,
    ),
}


@pytest.mark.parametrize("what", WHILE_TRAINING)
def test_training(what: str, tmp_path: Path) -> None:
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
