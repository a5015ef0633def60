from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.commands import small, the_line, train_py, trained
from tests.helpers.runs import judged
from xent.cli.build import build_loss, build_reference
from xent.losses.function import FunctionLoss
from xent.recording.errors import BadInput
from xent.recording.trace import load

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
    arguments = {"_target_": "their.Loss", "weight": [1, 2], "label_smoothing": 0.1, "alpha": 3}
    reference = build_reference(arguments, classes=2)
    assert isinstance(reference, nn.CrossEntropyLoss)
    assert reference.weight is not None
    assert (reference.weight.tolist(), reference.label_smoothing) == ([1, 2], 0.1)


class Holding(nn.CrossEntropyLoss):
    """Asks for a list, as torch.Tensor(alpha) does."""

    def __init__(self, alpha: list[float]) -> None:
        super().__init__()
        assert type(alpha) is list


class Callable:
    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, target)


PARTIAL, INSTANCE, MODULE = partial(smoothed, smoothing=0.1), Callable(), nn.CrossEntropyLoss()


@pytest.mark.parametrize("name", ["PARTIAL", "INSTANCE", "MODULE", "Callable", "Holding"])
def test_whatever_can_be_called_is_a_loss(name: str) -> None:
    arguments = {"alpha": [1.0, 2.0]} if name == "Holding" else {}
    loss = build_loss({"_target_": f"tests.cli.test_losses.{name}", **arguments})
    expected = nn.CrossEntropyLoss(label_smoothing=0.1 if name == "PARTIAL" else 0.0)
    logits, target = torch.randn(4, 10), torch.arange(4)
    assert loss(logits, target) == expected(logits, target)


def test_tensors_of_a_function_are_moved_with_it() -> None:
    loss = build_loss({"_target_": "torch.nn.functional.cross_entropy", "weight": [1.0, 2.0]}).double()
    logits = torch.zeros(4, 2, dtype=torch.float64)
    assert loss(logits, torch.tensor([0, 1, 1, 0])).dtype == torch.float64


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(BadInput, match="made a dict: expected a torch.nn.Module, or a function"):
        build_loss({"_target_": "builtins.dict"})


def test_arguments_of_a_custom_loss_are_its_own_in_a_sweep(tmp_path: Path) -> None:
    """`+loss.smoothing=0.0` is none of PyTorch's; `loss.ignore_index` is given to both."""
    target = ["loss._target_=tests.cli.test_losses.smoothed", "+loss.smoothing=0.0"]
    sweep = ["loss=torch,custom", *target, "nudge=0,1", *small(precision="float64"), f"hydra.sweep.dir={tmp_path}"]
    result = train_py("-m", *sweep)
    assert result.returncode == 0, result.stderr
    (reference,) = tmp_path.glob("loss=torch,*nudge=0*")
    assert "loss.smoothing" not in load(reference).settings
    assert "bitwise identical" in result.stdout


def test_a_kernel_in_float32_is_judged_by_what_the_rounding_of_float32_may_do(tmp_path: Path) -> None:
    """A right one, and one that is off by a thousandth."""
    losses = ["loss=torch,custom", "loss._target_=tests.helpers.faulty_losses.Float32", "+loss.error=0.0,1e-3"]
    own = small(precision="float64", loss_precision="float32", nudge="0,1,2", max_steps=32)
    result = train_py("-m", *losses, *own, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    figures = judged(tmp_path / "comparison").values()
    verdicts = {each["settings"].get("loss.error"): each["verdict"] for each in figures}
    assert verdicts == {None: "bitwise identical", 0.0: "same within rounding", 1e-3: "different"}, "torch ran twice"


def test_every_loss_of_a_sweep_is_tried_before_the_first_run(tmp_path: Path) -> None:
    """In every precision that it will get: this one takes bfloat16 alone, which is the first."""
    losses = "loss=torch,custom", "loss._target_=tests.helpers.faulty_losses.Bfloat16Only"
    precisions = small(precision="float64", loss_precision="bfloat16,float32")
    result = train_py("-m", *losses, *precisions, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert the_line(result).startswith(
        "the loss of float32 logits [128, 10] and class indices [128] cannot be computed"
    )
    assert result.stdout == ""
    assert not (tmp_path / "sweep").exists()


def test_a_loss_is_a_file_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    weight = ", ".join(["1.0"] * 10)
    mine = f"_target_: xent.FusedCrossEntropyLoss\nweight: [{weight}]\nlabel_smoothing: 0.0\n"
    (tmp_path / "loss" / "mine.yaml").write_text(mine)
    sweep = ["loss=torch,mine", "nudge=0,1,2", *small(precision="float64"), f"hydra.sweep.dir={tmp_path / 'runs'}"]
    result = train_py("--config-dir", str(tmp_path), "-m", *sweep)
    assert result.returncode == 0, result.stderr
    assert "\n mine   same within rounding " in result.stdout


def test_a_file_of_ones_own_keeps_its_loss_beside_a_custom_one(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "plain.yaml").write_text("_target_: torch.nn.CrossEntropyLoss\n")
    sweep = ["loss=plain,custom", "loss._target_=xent.losses.impostors.sum_for_mean", *small(nudge="0,1")]
    how = ["hydra.callbacks.compare.reference=plain", f"hydra.sweep.dir={tmp_path / 'runs'}"]
    result = train_py("--config-dir", str(tmp_path), "-m", *sweep, *how)
    assert "No: sum_for_mean differs from step 1 on" in result.stdout, result.stderr
    (tmp_path / "loss" / "empty.yaml").write_text("")
    line = the_line(train_py("--config-dir", str(tmp_path), "loss=empty", *small()))
    assert line.startswith(f"{tmp_path}/loss/empty.yaml has no _target_: expected the name of a class or function")


def test_a_published_loss_is_swept_with_its_argument_beside_pytorchs(tmp_path: Path) -> None:
    published = ["loss=torch,custom", "loss._target_=timm.loss.LabelSmoothingCrossEntropy", "+loss.smoothing=0.0"]
    own = small(precision="float64", nudge="0,1", **{"hydra.sweep.dir": tmp_path})
    result = train_py("-m", *published, *own)
    assert result.returncode == 0, result.stderr
    ((name, found),) = judged(tmp_path / "comparison").items()
    assert (name, found["verdict"]) == ("LabelSmoothingCrossEntropy", "same within rounding")
    assert found["settings"]["loss.smoothing"] == 0.0
