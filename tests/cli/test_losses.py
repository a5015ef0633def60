from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.commands import PROJECT, command, small, trained
from xent.cli.losses import build_loss, build_reference
from xent.losses.function import FunctionLoss
from xent.runs import traces
from xent.training.errors import BadInput

WEIGHTS = "[1,10,1,1,1,1,1,1,1,1]"


def smoothed(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    return nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)


def test_a_function_is_trained_with_as_a_module_is(tmp_path: Path) -> None:
    target = "loss._target_=tests.cli.test_losses.smoothed"
    custom = trained(tmp_path / "a", *small(), "loss=custom", target, "+loss.smoothing=0.1")
    expected = trained(tmp_path / "b", *small(), "loss=torch", "+loss.label_smoothing=0.1")
    assert torch.equal(custom.losses, expected.losses)


def test_a_function_of_pytorchs_is_a_loss_too() -> None:
    assert isinstance(build_loss({"_target_": "torch.nn.functional.cross_entropy", "reduction": "sum"}), FunctionLoss)


@pytest.mark.parametrize("loss", ["torch", "scratch", "fused"])
def test_the_weights_of_classes_are_a_list(loss: str, tmp_path: Path) -> None:
    weighted = trained(tmp_path / "run", *small(), f"loss={loss}", f"+loss.weight={WEIGHTS}")
    plain = trained(tmp_path / "plain", *small(), f"loss={loss}")
    assert not torch.equal(weighted.losses, plain.losses)
    assert weighted.settings["loss.weight"] == [1, 10, *[1] * 8]


def test_the_reference_has_the_arguments_that_pytorch_knows() -> None:
    reference = build_reference({"_target_": "their.Loss", "weight": [1, 2], "label_smoothing": 0.1, "alpha": 3})
    assert isinstance(reference, nn.CrossEntropyLoss)
    assert reference.weight is not None
    assert (reference.weight.tolist(), reference.label_smoothing) == ([1, 2], 0.1)


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(BadInput, match=r"loss\.weight=\['a', 2\]: expected a list of numbers"):
        build_loss({"_target_": "torch.nn.CrossEntropyLoss", "weight": ["a", 2]})
    with pytest.raises(BadInput, match="made a dict: expected a torch.nn.Module, or a function"):
        build_loss({"_target_": "builtins.dict"})


def test_arguments_of_a_custom_loss_are_its_own_in_a_sweep(tmp_path: Path) -> None:
    """`+loss.smoothing=0.0` is none of PyTorch's; `loss.ignore_index` is given to both."""
    target = ["loss._target_=tests.cli.test_losses.smoothed", "+loss.smoothing=0.0"]
    sweep = ["loss=torch,custom", *target, "nudge=0,1", *small(precision="float64"), f"hydra.sweep.dir={tmp_path}"]
    result = command("train.py", "-m", *sweep, PYTHONPATH=str(PROJECT))
    assert result.returncode == 0, result.stderr
    (reference,) = tmp_path.glob("loss=torch,*nudge=0*")
    assert "loss.smoothing" not in traces.load(reference).settings
    assert "bitwise identical" in result.stdout


def test_a_loss_is_a_file_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    weight = ", ".join(["1.0"] * 10)
    mine = f"_target_: xent.FusedCrossEntropyLoss\nweight: [{weight}]\nlabel_smoothing: 0.0\n"
    (tmp_path / "loss" / "mine.yaml").write_text(mine)
    sweep = ["loss=torch,mine", "nudge=0,1,2", *small(precision="float64"), f"hydra.sweep.dir={tmp_path / 'runs'}"]
    result = command("train.py", "--config-dir", str(tmp_path), "-m", *sweep)
    assert result.returncode == 0, result.stderr
    assert "│ mine  │ same within rounding" in result.stdout
