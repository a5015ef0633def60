"""What the commands say to bad input: one line, and nothing is written."""

import subprocess
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import PROJECT, command, small, the_line
from tests.helpers.published_files import write_mnist

DATA = f"data.root={PROJECT / 'data'}"


def refused(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A training that must leave nothing where it would have written."""
    arguments = sorted([DATA, *overrides], key=lambda argument: not argument.startswith("-"))
    result = command(str(PROJECT / "train.py"), *arguments, cwd=folder, **environment)
    assert not list(folder.glob("outputs/**/*"))
    return result


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    line = the_line(refused(tmp_path, "device=cuda"))
    assert line.startswith(f"device=cuda: PyTorch {torch.__version__} sees no cuda devices on this machine")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "loss=nonsense",
            "Could not find 'loss/nonsense' Available options in 'loss': article custom fused scratch torch",
        ),
        ("loss=custom", "loss._target_ is not set: give it as loss._target_=..."),
        ("epochs=-1", "epochs=-1: expected a whole number of at least 1"),
        ("epochs=two", "Value 'two' of type 'str' could not be converted to Integer"),
        ("batch_size=0", "batch_size=0: expected a whole number of at least 1"),
        ("batch_size=60001", "batch_size=60001: MNIST has 60000 training images"),
        ("optimizer.lr=-1", "Invalid learning rate: -1"),
        (
            "+loss.reduction=none",
            "class indices [128] is of shape (128,): expected one number, as their mean",
        ),
        ("loss._target_=builtins.dict", "loss._target_=builtins.dict: expected beside loss=custom, add that"),
        ("speed=3", "Key 'speed' not in 'Config'"),
    ],
)
def test_bad_settings(override: str, says: str, tmp_path: Path) -> None:
    assert says in the_line(refused(tmp_path, override))


def test_a_bad_setting_in_a_sweep(tmp_path: Path) -> None:
    assert "epochs=-1" in the_line(refused(tmp_path, "-m", "loss=torch,scratch", "epochs=-1"))


def test_a_data_set_that_is_neither_there_nor_to_be_downloaded(tmp_path: Path) -> None:
    root = tmp_path / "data"
    nowhere = "http://127.0.0.1:9"
    result = refused(tmp_path, "data=fashion_mnist", f"data.root={root}", https_proxy=nowhere, http_proxy=nowhere)
    line = the_line(result)
    assert line.startswith(f"FashionMNIST is not in {root} and could not be downloaded")
    assert line.endswith(f"t10k-labels-idx1-ubyte.gz into {root}/FashionMNIST/raw")


def test_a_damaged_file(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path / "data", compressed=True)
    line = the_line(refused(tmp_path, f"data.root={tmp_path / 'data'}"))
    assert line.startswith(f"{raw / 'train-images-idx3-ubyte.gz'} is damaged: its MD5 is ")


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file in the way")
    line = the_line(command(str(PROJECT / "train.py"), *small(), DATA, cwd=tmp_path))
    assert line.startswith("cannot write outputs")


def test_a_folder_without_a_trace(tmp_path: Path) -> None:
    line = the_line(command("-m", "xent.compare", str(tmp_path)))
    assert line == f"{tmp_path} has no trace.npz: expected the folder of a run, or of a sweep"
