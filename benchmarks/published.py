"""Losses of published packages under the judge: python -m benchmarks.published [packages=timm] [page=docs/verdict.md]

Needs the packages, beside the project: `pip install --constraint constraints.txt liger-kernel packaging timm monai
segmentation-models-pytorch cut-cross-entropy keras transformers optax "mlx[cpu]" scikit-learn`. Some ask for far more
than their losses import: `pip install --no-deps nnunetv2 espnet trl deepspeed axolotl litgpt speechbrain`, which need
`pip install --constraint constraints.txt einops hjson msgpack peft datasets lightning hyperpyyaml torchaudio`.
A loss is judged twice: by `assert_same_learning`, and by a direct comparison of values and gradients with PyTorch's, in
float64, on the same logits. The two should agree.
"""

# mypy: disable-error-code="import-not-found, no-untyped-call"
import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from math import log
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.measure import arguments, as_markdown, write_into
from tests.helpers.right_losses import Case
from xent.recording import BadInput
from xent.recording.float64 import judging_in
from xent.testing import from_numpy
from xent.testing.same_learning import differing_in_trials, judge_learning
from xent.testing.same_training import SAME
from xent.training.task import Task

BEGIN = "<!-- python -m benchmarks.published page=docs/verdict.md -->"
# Kernels for a GPU, on the CPU; and float64 in JAX
ENVIRONMENT = {"TRITON_INTERPRET": "1", "KERAS_BACKEND": "torch", "JAX_ENABLE_X64": "1"}
ULPS = 100  # of error, beyond which a direct comparison calls a loss different; or as many times PyTorch's error
PLACES, IGNORED = {"places": (6,)}, {"ignored": 0.3}
SMOOTHED = nn.CrossEntropyLoss(label_smoothing=0.1)
WEIGHT = torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

Cases = dict[str, Case]
FLOAT32 = (torch.float32,)
case = partial(Case, dtypes=(torch.float64, torch.float32))


def poly(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.softmax(1).gather(1, target[:, None])
    return cross_entropy(logits, target) + 2 * (1 - p).mean()


def of_product(inputs: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(inputs @ WEIGHT.to(inputs).T, target)


def timm() -> Cases:
    from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from timm.loss.poly_loss import PolyCrossEntropy

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

    return {"LigerCrossEntropyLoss()": case(LigerCrossEntropyLoss(), task={"batch": 29})}  # interpreted, so slow


def cut_cross_entropy() -> Cases:
    from cut_cross_entropy import linear_cross_entropy

    loss = partial(linear_cross_entropy, impl="torch_compile")
    return {
        'linear_cross_entropy(impl="torch_compile")': case(lambda z, t: loss(z, WEIGHT.to(z), t), of_product, IGNORED)
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


def nnunetv2() -> Cases:
    from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss, TopKLoss

    def hardest(logits: Tensor, target: Tensor) -> Tensor:
        losses = cross_entropy(logits, target, reduction="none").flatten().sort(descending=True).values
        return losses[: len(losses) // 10].mean()

    robust, every, tenth = RobustCrossEntropyLoss(), TopKLoss(k=100), TopKLoss(k=10)
    return {
        "RobustCrossEntropyLoss()": case(lambda z, t: robust(z, t[:, None].to(z)), task=PLACES | IGNORED),
        "TopKLoss(k=100)": case(lambda z, t: every(z, t[:, None]), task=PLACES),
        "TopKLoss(k=10)": case(lambda z, t: tenth(z, t[:, None]), hardest, PLACES),
    }


def espnet() -> Cases:
    from espnet.nets.pytorch_backend.transformer.label_smoothing_loss import LabelSmoothingLoss

    def divergence(logits: Tensor, target: Tensor) -> Tensor:
        """From 0.9 of the target and 0.1 of all others, without the ignored."""
        return cross_entropy(logits, target, label_smoothing=1 / 9) + 0.9 * log(0.9) + 0.1 * log(0.1 / 9)

    plain, smoothed = (LabelSmoothingLoss(10, -100, smoothing, normalize_length=True) for smoothing in (0.0, 0.1))
    return {
        "LabelSmoothingLoss(smoothing=0)": case(lambda z, t: plain(z[None], t[None]), task=IGNORED),
        "LabelSmoothingLoss(smoothing=0.1)": case(lambda z, t: smoothed(z[None], t[None]), divergence),
    }


def trl() -> Cases:
    from trl.trainer.utils import selective_log_softmax

    def masked(logits: Tensor, target: Tensor) -> Tensor:
        mask = target != -100
        return -selective_log_softmax(logits, target.clamp(min=0), row_mask=mask).sum() / mask.sum()

    return {
        "selective_log_softmax(row_mask=...)": case(masked, task=IGNORED),
        "selective_log_softmax(temperature=2)": case(
            lambda z, t: -selective_log_softmax(z, t, temperature=2.0).mean(), lambda z, t: cross_entropy(z / 2, t)
        ),
    }


def deepspeed() -> Cases:
    from deepspeed.sequence.cross_entropy import vocab_parallel_cross_entropy
    from deepspeed.sequence.linear_cross_entropy import vocab_parallel_linear_cross_entropy
    from deepspeed.sequence.vocab_parallel_ops import vocab_parallel_logprobs

    return {
        "vocab_parallel_cross_entropy": case(vocab_parallel_cross_entropy, task=IGNORED),
        "vocab_parallel_logprobs": case(
            lambda z, t: -vocab_parallel_logprobs(z, t).sum() / (t != -100).sum(), task=IGNORED
        ),
        "vocab_parallel_linear_cross_entropy": case(
            lambda z, t: vocab_parallel_linear_cross_entropy(z, WEIGHT.to(z), t, chunk_size=8), of_product, IGNORED
        ),
    }


def axolotl() -> Cases:
    from axolotl.monkeypatch.loss.chunked import CEWithChunkedOutputLoss
    from axolotl.monkeypatch.loss.eaft import eaft_loss

    chunked = CEWithChunkedOutputLoss(4)

    def shifted(logits: Tensor, target: Tensor) -> Tensor:
        outputs = SimpleNamespace(logits=torch.cat([logits, logits[:1]])[None])
        return eaft_loss(outputs, torch.cat([target[:1], target])[None])

    def by_entropy(logits: Tensor, target: Tensor) -> Tensor:
        weight = Categorical(logits=logits.detach()).entropy()[target != -100]
        return (weight * cross_entropy(logits, target, reduction="none")[target != -100]).mean()

    return {
        "CEWithChunkedOutputLoss(4)": case(
            lambda z, t: chunked([*z[None].chunk(4, dim=1)], t[None], reduction="mean"), task=IGNORED
        ),
        "eaft_loss": case(shifted, by_entropy, IGNORED),
    }


def litgpt() -> Cases:
    from litgpt.utils import chunked_cross_entropy

    return {
        "chunked_cross_entropy(chunk_size=8)": case(
            lambda z, t: chunked_cross_entropy(z[None], t[None], chunk_size=8), task=IGNORED
        ),
        "chunked_cross_entropy, logits in parts": case(
            lambda z, t: chunked_cross_entropy([*z[None].split(8, dim=1)], t[None]), task=IGNORED
        ),
    }


def speechbrain() -> Cases:
    from speechbrain.nnet.losses import nll_loss

    def loss(logits: Tensor, target: Tensor, **keywords: Any) -> Tensor:
        return nll_loss(logits.log_softmax(1).movedim(1, -1), target, **keywords)

    return {
        "nll_loss(label_smoothing=0.1)": case(partial(loss, label_smoothing=0.1), SMOOTHED, PLACES),
        "nll_loss(length=...), half": case(
            lambda z, t: loss(z, t, length=torch.full((len(z),), 0.5)),
            lambda z, t: cross_entropy(z[..., :3], t[:, :3]),
            PLACES,
        ),
    }


def optax() -> Cases:
    import jax
    from optax import losses

    def mean(loss: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
        return from_numpy(jax.jit(jax.value_and_grad(lambda z, t: loss(z, t).mean())))

    def of_smoothed(z: Any, t: Any) -> Any:
        return losses.softmax_cross_entropy(z, losses.smooth_labels(jax.nn.one_hot(t, 10), 0.1))

    return {
        "softmax_cross_entropy_with_integer_labels": case(mean(losses.softmax_cross_entropy_with_integer_labels)),
        "softmax_cross_entropy of smooth_labels(0.1)": case(mean(of_smoothed), SMOOTHED),
        "poly_loss_cross_entropy(epsilon=2)": case(
            mean(lambda z, t: losses.poly_loss_cross_entropy(z, jax.nn.one_hot(t, 10))), poly
        ),
    }


def mlx() -> Cases:
    import mlx.core as mx
    from mlx.nn.losses import cross_entropy as of_mlx

    def mean(smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
        loss = mx.value_and_grad(partial(of_mlx, label_smoothing=smoothing, reduction="mean"))
        return from_numpy(lambda z, t: loss(mx.array(z), mx.array(t)))

    return {
        "cross_entropy": Case(mean(0.0), dtypes=FLOAT32),
        "cross_entropy(label_smoothing=0.1)": Case(mean(0.1), SMOOTHED, dtypes=FLOAT32),
    }


def scikit_learn() -> Cases:
    from sklearn._loss import HalfMultinomialLoss

    half = HalfMultinomialLoss(n_classes=10)

    def mean(logits: Any, target: Any) -> tuple[Any, Any]:
        losses, gradients = half.loss_gradient(target.astype(logits.dtype), logits)
        return losses.mean(), gradients / len(target)

    return {"HalfMultinomialLoss": case(from_numpy(mean))}


USUAL = liger_kernel, timm, monai, segmentation_models_pytorch, cut_cross_entropy, keras, transformers
WITHOUT_DEPENDENCIES = nnunetv2, espnet, trl, deepspeed, axolotl, litgpt, speechbrain
OUTSIDE = optax, mlx, scikit_learn
FUNCTIONS = *USUAL, *WITHOUT_DEPENDENCIES, *OUTSIDE
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


def judged_twice(case: Case, task: Task) -> tuple[bool, bool, list[str]]:
    """Judge a loss by training and directly.

    Returns:
        whether training is the same, whether both ways agree, and the trials in which the loss differs.
    """
    ulps, of_reference = largest_errors(case, task)
    try:
        accepted = judge_learning(case.loss, case.reference, task).verdict in SAME
    except BadInput:
        accepted = False
    trials = [*differing_in_trials(case.loss, case.reference, task)[0]] if accepted else []
    return accepted, accepted == (ulps <= ULPS * max(1.0, of_reference)), trials


def row_of(package: str) -> list[str]:
    """The losses of an installed package that train the same, those that do not, and whether both ways agree."""
    same, different, all_agree = list[str](), list[str](), True
    for name, case in PACKAGES[package]().items():
        judged = {dtype: judged_twice(case, Task(dtype=dtype, **{"classes": 10} | case.task)) for dtype in case.dtypes}
        all_agree = all_agree and all(agree for _, agree, _ in judged.values())
        trials = dict.fromkeys(trial for _, _, trials in judged.values() for trial in trials)
        for losses, wanted in ((same, True), (different, False)):
            dtypes = [dtype for dtype, (accepted, *_) in judged.items() if accepted is wanted]
            alone = f" in {str(dtypes[0]).removeprefix('torch.')}" if len(dtypes) == 1 else ""
            other = f" (but other on {', '.join(trials)})" if wanted and trials else ""
            losses += [f"`{name}`{alone}{other}"] if dtypes else []
    return [f"{package} {version(package)}", ", ".join(same), ", ".join(different), "yes" if all_agree else "NO"]


def main() -> None:
    packages, page = arguments(packages=",".join(PACKAGES), page="")
    os.environ.update(ENVIRONMENT)
    header = ["package", "trains the same", "differs", "both ways agree"]
    text = as_markdown("Losses of published packages", [header, *map(row_of, packages.split(","))])
    print(text)
    write_into(page, BEGIN, text)


if __name__ == "__main__":
    main()
