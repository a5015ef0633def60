"""What the commands say to bad input: one line, and nothing is written."""

from pathlib import Path

import pytest

from tests.helpers.commands import small, the_line, train_py


@pytest.fixture(autouse=True)
def _an_empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*overrides: str) -> str:
    """What a training says that must leave nothing where it would have written."""
    line = the_line(train_py(*overrides))
    assert not list(Path("outputs").glob("**/*"))
    return line


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("loss=none", "Could not find 'loss/none' Available options in 'loss': article custom fused scratch torch"),
        ("epochs=two", "Value 'two' of type 'str' could not be converted to Integer"),
        ("batch_size=60001", "batch_size=60001: MNIST has 60000 training images"),
        ("optimizer.lr=-1", "Invalid learning rate: -1"),
        ("optimizer.lr=fast", "Error in call to target 'torch.optim.sgd.SGD': TypeError("),
        ("+optimizer.speed=3", "unexpected keyword argument 'speed'"),
        ("optimizer.nesterov=maybe", "the optimizer cannot make a step (TypeError: _fused_sgd_() received an invalid"),
        ("optimizer._target_=torch.optim.LBFGS", "Error in call to target 'torch.optim.lbfgs.LBFGS': TypeError("),
        ("+model.depth=3", "unexpected keyword argument 'depth'"),
        ("model.norm=layer", "model.norm=layer: expected batch, group, none"),
        ("+loss.weight=[a,2]", "Error in call to target 'torch.nn.modules.loss.CrossEntropyLoss': TypeError("),
        ("+loss.reduction=none", "class indices [128] is of shape (128,): expected one number, as their mean"),
        ("loss._target_=builtins.dict", "loss._target_=builtins.dict: expected beside loss=custom, add that"),
        ("speed=3", "Key 'speed' not in 'Config'"),
        ("device=tpu", "device=tpu"),
    ],
)
def test_bad_settings(override: str, says: str) -> None:
    assert says in refused(override)


@pytest.mark.parametrize(
    "typo",
    [
        "model=mlp,cnnn",
        "nudge=0,-1",
        "loss=torch,scrtch",
        "optimizer.lrr=0.1,0.2",
        "optimizer.nesterov=true,maybe",
        "epochs=-1",
    ],
)
def test_a_mistyped_sweep(typo: str) -> None:
    """Whatever stands beside it, before any run is trained."""
    overrides = {word.partition("=")[0]: word for word in ("loss=torch,scratch", *small(nudge=0), typo)}
    refused("-m", *overrides.values())


def test_an_experiment_that_is_a_sweep_is_not_half_trained() -> None:
    expected = "+experiment=switch is a sweep over loss, nudge: expected -m too, python train.py -m"
    assert refused("+experiment=switch").startswith(expected)
    assert train_py("+experiment=switch", "loss=scratch", "nudge=0", "max_steps=1").returncode == 0


def test_outputs_that_cannot_be_written() -> None:
    Path("outputs").write_text("a file in the way")
    assert the_line(train_py(*small())).startswith("cannot write outputs")
