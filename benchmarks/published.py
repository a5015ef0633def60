"""Losses of published packages under the judge: python -m benchmarks.published [page=docs/verdict.md]

Each package gets a virtual environment of its own, which is deleted in the end: `pip install . PACKAGE`, then
`python -m benchmarks.published PACKAGE` there (a quarter of an hour in all on two cores). Each loss is judged twice: by
`assert_same_learning`, and by a direct comparison of values and gradients with PyTorch's, in float64, on the same
logits. The two should agree.
"""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from tests.helpers.right_losses import Case
from xent.recording.errors import BadInput
from xent.testing.same_learning import judge_learning
from xent.testing.same_training import SAME
from xent.training.task import Task

BEGIN, END = "<!-- python -m benchmarks.published page=docs/verdict.md -->", "<!-- end of published -->"
ENVIRONMENT = {"TRITON_INTERPRET": "1", "KERAS_BACKEND": "torch"}  # kernels for a GPU, on the CPU
ULPS = 100  # of error, beyond which a direct comparison calls a loss another one; or as many times PyTorch's own error
BOTH, FLOAT32 = (torch.float64, torch.float32), (torch.float32,)
PLACES = {"places": (6,)}
IGNORED = {"ignored": 0.3}
SMOOTHED = nn.CrossEntropyLoss(label_smoothing=0.1)
Cases = dict[str, Case]


def timm() -> Cases:
    from timm.loss import LabelSmoothingCrossEntropy, PolyCrossEntropy, SoftTargetCrossEntropy

    def poly(logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(1).gather(1, target[:, None])
        return cross_entropy(logits, target) + 2 * (1 - p).mean()

    return {
        "LabelSmoothingCrossEntropy(0.1)": Case(LabelSmoothingCrossEntropy(0.1), SMOOTHED, dtypes=BOTH),
        "SoftTargetCrossEntropy()": Case(SoftTargetCrossEntropy(), task={"probabilities": True}, dtypes=BOTH),
        "PolyCrossEntropy(2)": Case(PolyCrossEntropy(2.0), poly, dtypes=BOTH),
    }


def segmentation_models_pytorch() -> Cases:
    from segmentation_models_pytorch.losses import SoftCrossEntropyLoss

    smoothed = SoftCrossEntropyLoss(smooth_factor=0.1)
    return {
        "SoftCrossEntropyLoss(0.1)": Case(smoothed, SMOOTHED, PLACES, BOTH),
        "SoftCrossEntropyLoss(0.1), some ignored": Case(smoothed, SMOOTHED, PLACES | IGNORED, BOTH),
        "SoftCrossEntropyLoss(0), two thirds ignored": Case(
            SoftCrossEntropyLoss(smooth_factor=0.0), task={"ignored": 2 / 3}, dtypes=BOTH
        ),
    }


def monai() -> Cases:
    from monai.losses import DiceCELoss, FocalLoss

    dice_ce = DiceCELoss(to_onehot_y=True, softmax=True, lambda_dice=0.0)
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.0)
    return {
        "DiceCELoss(lambda_dice=0)": Case(lambda z, t: dice_ce(z, t[:, None]), task=PLACES, dtypes=BOTH),
        "FocalLoss(gamma=0)": Case(lambda z, t: focal(z, t[:, None]), task=PLACES, dtypes=BOTH),
        "10 * FocalLoss(gamma=0)": Case(lambda z, t: 10 * focal(z, t[:, None]), task=PLACES, dtypes=BOTH),
    }


def liger_kernel() -> Cases:
    from liger_kernel.transformers import LigerCrossEntropyLoss

    return {"LigerCrossEntropyLoss()": Case(LigerCrossEntropyLoss(), dtypes=BOTH)}


def cut_cross_entropy() -> Cases:
    from cut_cross_entropy import linear_cross_entropy

    weight = torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        'linear_cross_entropy(impl="torch_compile")': Case(
            lambda z, t: linear_cross_entropy(z, weight.to(z), t, impl="torch_compile"),
            lambda z, t: cross_entropy(z @ weight.to(z).T, t),
            IGNORED,
            BOTH,
        )
    }


def keras() -> Cases:
    from keras.losses import CategoricalCrossentropy, SparseCategoricalCrossentropy

    of_logits, of_probabilities = SparseCategoricalCrossentropy(from_logits=True), SparseCategoricalCrossentropy()
    smoothed = CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    return {
        "SparseCategoricalCrossentropy(from_logits=True)": Case(lambda z, t: of_logits(t, z), dtypes=BOTH),
        "SparseCategoricalCrossentropy()": Case(lambda z, t: of_probabilities(t, z.softmax(1)), dtypes=FLOAT32),
        "CategoricalCrossentropy(label_smoothing=0.1)": Case(
            lambda z, t: smoothed(one_hot(t, z.shape[1]), z), SMOOTHED, dtypes=BOTH
        ),
    }


def transformers() -> Cases:
    from transformers.loss.loss_utils import ForMaskedLMLoss

    return {"ForMaskedLMLoss": Case(lambda z, t: ForMaskedLMLoss(z, t, z.shape[1]), task=IGNORED, dtypes=BOTH)}


PACKAGES = {
    "liger-kernel": liger_kernel,
    "timm": timm,
    "monai": monai,
    "segmentation-models-pytorch": segmentation_models_pytorch,
    "cut-cross-entropy": cut_cross_entropy,
    "keras": keras,
    "transformers": transformers,
}
UNDECLARED = {"liger-kernel": ["packaging"]}  # what a package needs and does not say


def error(case: Case, task: Task, dtype: torch.dtype) -> tuple[float, bool]:
    """The largest relative error of value and gradient, in ULP, and whether rounding in that type explains it."""
    generator = torch.Generator().manual_seed(0)
    labels = task.splits[0].labels
    errors, own_errors = [], []
    for batch in range(16):
        target = labels[29 * batch : 29 * (batch + 1)]
        logits = torch.randn(len(target), task.classes, *task.places, generator=generator, dtype=torch.float64)
        logits = (4 * logits).to(dtype)
        exact = _on(case.reference, logits.double(), target)
        for loss, found in ((case.loss, errors), (case.reference, own_errors)):
            of_type = target.to(dtype) if task.probabilities else target
            pairs = zip(_on(loss, logits, of_type), exact)
            found.append(max(float((a.double() - b).norm() / b.norm()) for a, b in pairs) / torch.finfo(dtype).eps)
    return max(errors), max(errors) <= ULPS * max(1.0, *own_errors)


def _on(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf.clone(), target.clone())
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def rows_of(package: str) -> list[list[str]]:
    """A row of each loss of an installed package in each precision."""
    rows = []
    for name, case in PACKAGES[package]().items():
        task = Task(**{"classes": 10} | case.task)
        for dtype in case.dtypes:
            ulps, same = error(case, task, dtype)
            try:
                judgement = judge_learning(case.loss, case.reference, task, dtype)
                verdict, accepted = str(judgement.verdict), judgement.verdict in SAME
            except BadInput as refused:
                verdict, accepted = str(refused), False
            figures = f"{ulps:.2g}", "same" if same else "different", verdict, "yes" if accepted == same else "NO"
            rows.append([f"{package} {version(package)}", f"`{name}`", str(dtype).removeprefix("torch."), *figures])
    return rows


def in_its_own_environment(package: str) -> list[list[str]]:
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt", "."]
        subprocess.run([*install, package, *UNDECLARED.get(package, [])], check=True)
        command = [python, "-m", "benchmarks.published", package]
        found = subprocess.run(command, check=True, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    rows: list[list[str]] = json.loads(found.stdout.splitlines()[-1])
    return rows


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1] in PACKAGES:
        print(json.dumps(rows_of(sys.argv[1])))
        return
    from benchmarks.measure import option, write_into
    from xent.verdict.tables import as_markdown

    rows = [["package", "loss", "logits in", "largest error, ULP", "directly", "by `assert_same_learning`", "agree"]]
    for package in PACKAGES:
        rows += in_its_own_environment(package)
    text = as_markdown("Losses of published packages", rows)
    print(text)
    write_into(option("page", ""), BEGIN, text, END)


if __name__ == "__main__":
    main()
