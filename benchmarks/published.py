"""Losses of published packages under the judge: python -m benchmarks.published [packages=timm] [page=docs/verdict.md]

Needs the packages, beside the project: `pip install --constraint constraints.txt liger-kernel packaging timm monai
segmentation-models-pytorch cut-cross-entropy keras transformers`. A loss is judged twice: by `assert_same_learning`,
and by a direct comparison of values and gradients with PyTorch's, in float64, on the same logits. The two should agree.
"""

# mypy: disable-error-code="import-not-found, no-untyped-call"
import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.measure import arguments, as_markdown, write_into
from tests.helpers.right_losses import Case
from xent.recording import BadInput
from xent.recording.float64 import judging_in
from xent.testing.same_learning import judge_learning
from xent.testing.same_training import SAME
from xent.training.task import Task

BEGIN = "<!-- python -m benchmarks.published page=docs/verdict.md -->"
ENVIRONMENT = {"TRITON_INTERPRET": "1", "KERAS_BACKEND": "torch"}  # kernels for a GPU, on the CPU
ULPS = 100  # of error, beyond which a direct comparison calls a loss different; or as many times PyTorch's error
PLACES, IGNORED = {"places": (6,)}, {"ignored": 0.3}
SMOOTHED = nn.CrossEntropyLoss(label_smoothing=0.1)

Cases = dict[str, Case]
FLOAT32 = (torch.float32,)
case = partial(Case, dtypes=(torch.float64, torch.float32))


def timm() -> Cases:
    from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from timm.loss.poly_loss import PolyCrossEntropy

    def poly(logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(1).gather(1, target[:, None])
        return cross_entropy(logits, target) + 2 * (1 - p).mean()

    return {
        "LabelSmoothingCrossEntropy(0.1)": case(LabelSmoothingCrossEntropy(0.1), SMOOTHED),
        "SoftTargetCrossEntropy()": case(SoftTargetCrossEntropy(), task={"probabilities": True}),
        "PolyCrossEntropy(2)": case(PolyCrossEntropy(2.0), poly),
    }


def segmentation_models_pytorch() -> Cases:
    from segmentation_models_pytorch.losses import SoftCrossEntropyLoss

    plain, smoothed = SoftCrossEntropyLoss(smooth_factor=0.0), SoftCrossEntropyLoss(smooth_factor=0.1)
    return {
        "SoftCrossEntropyLoss(0.1)": case(smoothed, SMOOTHED, PLACES),
        "SoftCrossEntropyLoss(0.1), some ignored": case(smoothed, SMOOTHED, PLACES | IGNORED),
        "SoftCrossEntropyLoss(0), two thirds ignored": case(plain, task={"ignored": 2 / 3}),
    }


def monai() -> Cases:
    from monai.losses import DiceCELoss, FocalLoss

    dice_ce = DiceCELoss(to_onehot_y=True, softmax=True, lambda_dice=0.0)
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.0)
    return {
        "DiceCELoss(lambda_dice=0)": case(lambda z, t: dice_ce(z, t[:, None]), task=PLACES),
        "FocalLoss(gamma=0)": case(lambda z, t: focal(z, t[:, None]), task=PLACES),
        "10 * FocalLoss(gamma=0)": case(lambda z, t: 10 * focal(z, t[:, None]), task=PLACES),
    }


def liger_kernel() -> Cases:
    from liger_kernel.transformers import LigerCrossEntropyLoss

    return {"LigerCrossEntropyLoss()": case(LigerCrossEntropyLoss())}


def cut_cross_entropy() -> Cases:
    from cut_cross_entropy import linear_cross_entropy

    weight = torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = partial(linear_cross_entropy, impl="torch_compile")
    return {
        'linear_cross_entropy(impl="torch_compile")': case(
            lambda z, t: loss(z, weight.to(z), t), lambda z, t: cross_entropy(z @ weight.to(z).T, t), IGNORED
        )
    }


def keras() -> Cases:
    from keras.losses import CategoricalCrossentropy, SparseCategoricalCrossentropy

    of_logits, of_probabilities = SparseCategoricalCrossentropy(from_logits=True), SparseCategoricalCrossentropy()
    smoothed = CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    return {
        "SparseCategoricalCrossentropy(from_logits=True)": case(lambda z, t: of_logits(t, z)),
        "SparseCategoricalCrossentropy()": Case(
            lambda z, t: of_probabilities(t, z.softmax(1)), dtypes=(torch.float32,)
        ),
        "CategoricalCrossentropy(label_smoothing=0.1)": case(
            lambda z, t: smoothed(one_hot(t, z.shape[1]), z), SMOOTHED
        ),
    }


def transformers() -> Cases:
    from transformers.loss.loss_utils import ForMaskedLMLoss

    return {"ForMaskedLMLoss": case(lambda z, t: ForMaskedLMLoss(z, t, z.shape[1]), task=IGNORED)}


FUNCTIONS = liger_kernel, timm, monai, segmentation_models_pytorch, cut_cross_entropy, keras, transformers
PACKAGES = {function.__name__.replace("_", "-"): function for function in FUNCTIONS}


def largest_errors(case: Case, task: Task) -> tuple[float, float]:
    """The largest relative error of value and gradient, in ULP, of the loss and of the reference, over some batches."""

    def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        leaf = logits.clone().requires_grad_()
        value = loss(leaf.clone(), target.clone())
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    generator = torch.Generator().manual_seed(0)
    errors = []
    for target in task.splits[0].labels[: 16 * 29].split(29):
        logits = torch.randn(len(target), task.classes, *task.places, generator=generator, dtype=torch.float64)
        logits = (4 * logits).to(task.dtype)
        exact = value_and_gradient(case.reference, logits.double(), target.double() if task.probabilities else target)
        with judging_in(task.dtype):
            computed = [value_and_gradient(loss, logits, target) for loss in (case.loss, case.reference)]
        errors.append(
            [max(float((a.double() - b).norm() / b.norm()) for a, b in zip(pair, exact)) for pair in computed]
        )
    largest, of_reference = (max(column) / torch.finfo(task.dtype).eps for column in zip(*errors))
    return largest, of_reference


def rows_of(package: str) -> list[list[str]]:
    """A row for every loss of an installed package in every precision."""
    rows = []
    for name, case in PACKAGES[package]().items():
        for dtype in case.dtypes:
            task = Task(dtype=dtype, **{"classes": 10} | case.task)
            ulps, of_reference = largest_errors(case, task)
            same = ulps <= ULPS * max(1.0, of_reference)
            try:
                judgement = judge_learning(case.loss, case.reference, task)
                verdict, accepted = str(judgement.verdict), judgement.verdict in SAME
            except BadInput as refusal:
                verdict, accepted = str(refusal), False
            figures = f"{ulps:.2g}", "same" if same else "different", verdict, "yes" if accepted == same else "NO"
            rows.append([f"{package} {version(package)}", f"`{name}`", str(dtype).removeprefix("torch."), *figures])
    return rows


def main() -> None:
    packages, page = arguments(packages=",".join(PACKAGES), page="")
    os.environ.update(ENVIRONMENT)
    rows = [["package", "loss", "logits in", "largest error, ULP", "directly", "by `assert_same_learning`", "agree"]]
    for package in packages.split(","):
        rows += rows_of(package)
    text = as_markdown("Losses of published packages", rows)
    print(text)
    write_into(page, BEGIN, text)


if __name__ == "__main__":
    main()
