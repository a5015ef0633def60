"""What the commands say to bad input: one line, and nothing is written."""

from pathlib import Path

import pytest
import torch

from tests.helpers.commands import PROJECT, command, small, the_line, train_py

DATA = f"data.root={PROJECT / 'data'}"


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory of its own."""
    monkeypatch.chdir(tmp_path)


def refused(*overrides: str) -> str:
    """What a training says that must leave nothing where it would have written."""
    line = the_line(train_py(*overrides, DATA))
    assert not list(Path("outputs").glob("**/*"))
    return line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    expected = f"device=cuda: PyTorch {torch.__version__} sees no cuda devices on this machine"
    assert refused("device=cuda").startswith(expected)


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
        ("optimizer.lr=fast", "Error in call to target 'torch.optim.sgd.SGD': TypeError("),
        ("+optimizer.speed=3", "unexpected keyword argument 'speed'"),
        ("optimizer.nesterov=maybe", "the optimizer cannot make a step (TypeError: _fused_sgd_() received an invalid"),
        ("optimizer._target_=torch.optim.LBFGS", "Error in call to target 'torch.optim.lbfgs.LBFGS': TypeError("),
        ("+model.depth=3", "unexpected keyword argument 'depth'"),
        ("model.norm=layer", "model.norm=layer: expected batch, group, none"),
        ("+loss.weight=[a,2]", "Error in call to target 'torch.nn.modules.loss.CrossEntropyLoss': TypeError("),
        (
            "+loss.reduction=none",
            "class indices [128] is of shape (128,): expected one number, as their mean",
        ),
        ("loss._target_=builtins.dict", "loss._target_=builtins.dict: expected beside loss=custom, add that"),
        ("speed=3", "Key 'speed' not in 'Config'"),
        ("processes=2", "Key 'processes' not in 'Config'"),  # which torchrun starts
    ],
)
def test_bad_settings(override: str, says: str) -> None:
    assert says in refused(override)


def test_a_bad_setting_in_a_sweep() -> None:
    assert "epochs=-1" in refused("-m", "loss=torch,scratch", "epochs=-1")


def test_a_data_set_that_is_neither_there_nor_to_be_downloaded(tmp_path: Path) -> None:
    given = "data=fashion_mnist", f"data.root={tmp_path / 'data'}"
    nowhere = "http://127.0.0.1:9"
    result = command(str(PROJECT / "train.py"), *given, cwd=tmp_path, https_proxy=nowhere, http_proxy=nowhere)
    line = the_line(result)
    archive = tmp_path / "data" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    assert line.startswith(f"{archive} cannot be read or downloaded (")
    assert line.endswith("): put it there")
    assert not list(tmp_path.glob("outputs/**/*"))


def test_outputs_that_cannot_be_written() -> None:
    Path("outputs").write_text("a file in the way")
    assert the_line(train_py(*small(), DATA)).startswith("cannot write outputs")


def test_a_folder_without_a_trace(tmp_path: Path) -> None:
    line = the_line(command("-m", "xent.compare", str(tmp_path)))
    assert line == f"{tmp_path} has no trace.npz: expected the folder of a run, or of a sweep"
