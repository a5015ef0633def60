"""What a person sees when something happened to the data or a configuration, or happens while a run trains."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import PROJECT, small, train_py
from tests.helpers.faults import SMALL, empty, flip_a_byte, make_unreadable, succeeds, the_error

IS_KEPT = "what was trained is kept, to go on:"


@pytest.mark.parametrize("file", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"])
def test_damaged_data_is_not_trained_on(file: str, tmp_path: Path) -> None:
    folder = shutil.copytree(PROJECT / "data", tmp_path / "data") / "MNIST" / "raw"
    shutil.copy(folder / "t10k-labels-idx1-ubyte.gz", folder / f"{file}-ubyte.gz")
    result = train_py(*small(), f"data.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}")
    line = the_error(result, folder)
    assert line.startswith(f"RUN/{file}-ubyte.gz is damaged: its MD5 is not ")
    assert line.endswith(", as published; delete it and get it again")
    assert not (tmp_path / "run").exists()


def cut_within_a_key(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"_size:")])


@pytest.mark.parametrize(
    ("file", "damage", "begins", "ends"),
    [
        ("train.yaml", empty, "Could not override 'model'. No match in the defaults list.", ""),
        ("train.yaml", cut_within_a_key, "a file in configs/ cannot be read (while scanning ", "): get it back"),
        (
            "train.yaml",
            make_unreadable,
            "Cannot find primary config 'train'. ",
            "it's in your config search path.",
        ),
        (
            "loss/torch.yaml",
            empty,
            "RUN/loss/torch.yaml has no _target_: expected the name of a class or function",
            "",
        ),
        ("loss/torch.yaml", flip_a_byte, "a file in configs/ cannot be read (", "): get it back"),
        ("model/mlp.yaml", Path.unlink, "In 'train': Could not find 'model/mlp' Available options in", ": cnn resnet"),
    ],
)
def test_a_damaged_configuration_is_refused(
    file: str, damage: Callable[[Path], None], begins: str, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT / "train.py", tmp_path)
    configs = shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    damage(configs / file)
    monkeypatch.setattr("tests.helpers.commands.PROJECT", tmp_path)
    line = the_error(train_py(*SMALL, f"hydra.run.dir={tmp_path / 'run'}"), configs)
    assert line.startswith(begins) and line.endswith(ends)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_a_run_which_may_go_on_if_that_is_wanted(tmp_path: Path) -> None:
    stopped = train_py(*SMALL, "optimizer.lr=1e30", f"hydra.run.dir={tmp_path}")
    line = the_error(stopped, tmp_path, code=1)
    assert line.startswith("the loss is nan at step 2, seen at step 2: learning rate ")
    advice = "the batch is in RUN/nonfinite.pt; train with a smaller optimizer.lr, or with on_nonfinite=continue"
    assert line.endswith(f"; {advice}; {IS_KEPT} python train.py resume=RUN")
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=True)
    assert saved["step"] == 2
    assert (saved["images"].shape, saved["target"].shape) == ((128, 1, 28, 28), (128,))
    assert not saved["loss"].isfinite()
    assert succeeds(train_py(f"resume={tmp_path}", "on_nonfinite=continue"))


def test_too_little_memory_stops_a_run(tmp_path: Path) -> None:
    custom = ["loss=custom", "loss._target_=tests.helpers.faulty_losses.OutOfMemory"]
    line = the_error(train_py(*SMALL, *custom, f"hydra.run.dir={tmp_path}"), tmp_path, code=1)
    advice = "a batch does not fit into memory: give accumulate=2, or more"
    assert line == f"{advice}; {IS_KEPT} the same command with hydra.run.dir=RUN"


def test_a_run_that_learns_nothing_says_so(tmp_path: Path) -> None:
    slow = ["optimizer.lr=1e-30", "batch_size=2000", "max_steps=30"]
    line = the_error(train_py(*SMALL, *slow, f"hydra.run.dir={tmp_path}"), tmp_path, code=0)
    assert line == "the loss did not fall in 30 steps: this training learns nothing"


def test_tensorboard_is_for_this_machine_alone() -> None:
    shown = subprocess.run(["make", "-n", "tensorboard"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "--host 127.0.0.1" in shown.stdout
