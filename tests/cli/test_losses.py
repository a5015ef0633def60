from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.commands import small, succeeds, the_line, train_py, trained
from tests.helpers.runs import judged, scalars
from xent.cli.build import build_loss, build_reference
from xent.losses.function import FunctionLoss
from xent.recording.trace import load

ODD = {"of_one_weight": "weight=0.5", "of_no_index": "ignore_index=null", "of_another_mean": "reduction=batchmean"}
ODD["of_steps"] = "label_smoothing=[0.1]"


def smoothed(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    return cross_entropy(logits, target, label_smoothing=smoothing)


class Holding(nn.CrossEntropyLoss):
    """Asks for a list, as torch.Tensor(alpha) does."""

    def __init__(self, alpha: list[float]) -> None:
        super().__init__()
        assert type(alpha) is list


class Callable:
    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target)


PARTIAL, INSTANCE, MODULE = partial(smoothed, smoothing=0.1), Callable(), nn.CrossEntropyLoss()


@pytest.mark.parametrize("name", ["PARTIAL", "INSTANCE", "MODULE", "Callable", "Holding"])
def test_whatever_can_be_called_is_a_loss(name: str) -> None:
    arguments = {"alpha": [1.0, 2.0]} if name == "Holding" else {}
    loss = build_loss({"_target_": f"{__name__}.{name}", **arguments})
    logits, target = torch.randn(4, 10), torch.arange(4)
    assert loss(logits, target) == smoothed(logits, target, 0.1 if name == "PARTIAL" else 0.0)
    assert loss is not MODULE, "which every run of a sweep would train on"


def test_a_function_is_a_loss_of_its_arguments_and_the_reference_has_those_that_pytorch_knows() -> None:
    loss = build_loss({"_target_": "torch.nn.functional.cross_entropy", "reduction": "sum", "weight": [1.0, 2.0]})
    assert isinstance(loss, FunctionLoss)
    value = loss.double()(torch.zeros(4, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0]))  # which moves the weight
    assert (value.dtype, value.item()) == (torch.float64, pytest.approx(6 * torch.tensor(2.0).log().item()))

    arguments = {"_target_": "their.Loss", "weight": [1, 2], "label_smoothing": 0.1, "alpha": 3}
    reference: Any = build_reference(arguments, classes=2)
    assert type(reference) is nn.CrossEntropyLoss
    assert (reference.weight.tolist(), reference.label_smoothing) == ([1, 2], 0.1)


def test_the_weights_of_classes_are_a_list_or_made_by_a_target(tmp_path: Path) -> None:
    def losses(loss: str, *weight: str) -> Tensor:
        run = trained(tmp_path / f"{loss}{weight}", *small(max_steps=2), f"loss={loss}", *weight)
        assert run.settings.get("loss.weight", numbers) == numbers
        return run.losses

    numbers = [1, 10, *[1] * 8]
    weighted = losses("torch", f"+loss.weight={numbers}")
    assert not torch.allclose(weighted, losses("torch"))
    for loss in ("scratch", "fused"):
        torch.testing.assert_close(losses(loss, f"+loss.weight={numbers}"), weighted, rtol=1e-5, atol=0)
    by_target = f"+loss.weight={{_target_:torch.tensor,data:{[float(number) for number in numbers]}}}"
    succeeds(*small(max_steps=2), by_target, f"hydra.run.dir={tmp_path / 'target'}")
    assert load(tmp_path / "target").losses.equal(weighted)


@pytest.mark.parametrize(("function", "argument"), ODD.items())
def test_an_argument_may_mean_something_else_to_custom_losses(function: str, argument: str, tmp_path: Path) -> None:
    """Then there is no loss of PyTorch's to hold it to. Others refuse it before anything is written."""
    custom = ["loss=custom", f"loss._target_=tests.helpers.faulty_losses.{function}", f"+loss.{argument}"]
    trained(tmp_path / "custom", *small(), *custom)
    tags = scalars(tmp_path / "custom")
    assert "train/loss" in tags and not [tag for tag in tags if "parity" in tag]
    for loss in ("torch", "scratch"):
        line = the_line(train_py(*small(), f"loss={loss}", f"+loss.{argument}", f"hydra.run.dir={tmp_path / 'run'}"))
        assert argument.partition("=")[0] in line or "batchmean" in line
    assert not (tmp_path / "run").exists()


def test_arguments_of_a_custom_loss_are_not_those_of_others_in_a_sweep(tmp_path: Path) -> None:
    """`+loss.smoothing=0.0` is none of PyTorch's; `loss.ignore_index` would be given to both."""
    losses = ["loss=torch,custom", f"loss._target_={__name__}.smoothed", "+loss.smoothing=0.0"]
    succeeds("-m", *losses, *small(precision="float64", nudge="0,1"), f"hydra.sweep.dir={tmp_path}")
    (reference,) = tmp_path.glob("loss=torch,*nudge=0*")
    assert "loss.smoothing" not in load(reference).settings
    (candidate,) = judged(tmp_path / "comparison").values()
    assert (candidate["settings"]["loss.smoothing"], candidate["verdict"]) == (0.0, "bitwise identical")


def test_a_kernel_in_float32_is_judged_by_what_the_rounding_of_float32_may_do(tmp_path: Path) -> None:
    """A right one, and one that is off by a thousandth."""
    losses = ["loss=torch,custom", "loss._target_=tests.helpers.faulty_losses.Float32", "+loss.error=0.0,1e-3"]
    overrides = small(precision="float64", loss_precision="float32", nudge="0,1", max_steps=16)
    succeeds("-m", *losses, *overrides, f"hydra.sweep.dir={tmp_path}")
    figures = judged(tmp_path / "comparison").values()
    verdicts = {candidate["settings"].get("loss.error"): candidate["verdict"] for candidate in figures}
    assert verdicts == {None: "bitwise identical", 0.0: "same within rounding", 1e-3: "different"}, "torch ran twice"


def test_a_loss_that_is_another_at_logits_of_1000_fails_and_so_does_the_sweep_if_it_is_to(tmp_path: Path) -> None:
    """Two losses of one name, which trains as PyTorch's does; the one is right."""
    targets = "tests.helpers.faulty_losses.clamped", "tests.helpers.faulty_losses.right.clamped"
    both = ["loss=torch,custom", f"loss._target_={','.join(targets)}"]
    overrides = [*small(precision="float64", nudge="0,1"), f"hydra.sweep.dir={tmp_path}"]
    for fail, code in ((False, 0), (True, 1)):
        result = train_py("-m", *both, *overrides, f"hydra.callbacks.compare.fail={fail}")
        assert (result.returncode, result.stderr) == (code, "")
    answer = f"No, one of three: {targets[0]} trains as torch does, but for logits of 1000 its loss is 23"
    assert answer in " ".join(result.stdout.split())
    wrong, right = (judged(tmp_path / "comparison")[target] for target in targets)
    assert (wrong["verdict"], right["verdict"]) == ("same learning, other at large logits", "bitwise identical")
    ours, expected = wrong["in trials"]["logits of -1000"]["loss"]
    assert 0 < expected - ours < 50, "half of the rows are confident, and half of these have 50 less than 1000"


def test_every_loss_of_a_sweep_is_tried_before_the_first_run(tmp_path: Path) -> None:
    """In every precision that it will get: this one takes bfloat16 alone, which is the first."""
    losses = ["loss=torch,custom", "loss._target_=tests.helpers.faulty_losses.Bfloat16Only"]
    precisions = small(precision="float64", loss_precision="bfloat16,float32")
    result = train_py("-m", *losses, *precisions, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    line = the_line(result)
    assert line.startswith("the loss of float32 logits [128, 10] and class indices [128] cannot be computed")
    assert result.stdout == "" and not (tmp_path / "sweep").exists()


def test_where_a_loss_parts_is_named_in_answer_report_picture_and_tensorboard(tmp_path: Path) -> None:
    losses = "loss=torch,scratch,impostor/gradient_scaled"
    settings = [*small(precision="float64"), "where=2", "nudge=0,1", f"hydra.sweep.dir={tmp_path}"]
    result = train_py("-m", losses, *settings)
    place = "step 1, gradient at the output of 5 (Linear)"
    folder = tmp_path / "comparison"
    assert f"rounding, beyond the limit from step 1 on, first at {place}." in " ".join(result.stdout.split())
    figures = judged(folder)
    where = figures["impostor/gradient_scaled"]["where"]
    assert (where["begins at"], where["first"], where["step"]) == (place, "gradient at the output of 5", 1)
    decades = [tensor["decades"] for tensor in where["tensors"]]
    assert max(decades) == pytest.approx(6, abs=1) and len(decades) > 30
    assert figures["scratch"]["where"]["begins at"] is None
    report = (folder / "report.md").read_text()
    assert "| scratch | none of the 39 tensors of 2 steps from 1 to 2 is above rounding |" in report
    assert f"| impostor/gradient_scaled | {place}: " in report and "](where.png)" in report
    assert (folder / "where.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(folder)).Reload()
    assert {"curves", "where"} <= set(events.Tags()["images"])
