"""assert_same_learning: losses that pass, that do not, and that are refused; and what a failed proof says."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, bfloat16, float16, float64, nn
from torch.nn.functional import cross_entropy, one_hot

import xent
from tests.helpers.commands import PROJECT
from tests.helpers.right_losses import RIGHT, Case
from tests.helpers.runs import nudged, run
from tests.helpers.wrong_losses import WRONG, RunningMean, deaf_to_what_comes_from_above
from xent.losses.impostors import Impostor, gradient_scaled
from xent.recording.errors import BadInput
from xent.report.explanation import Evidence, explanation
from xent.testing import assert_same_learning
from xent.training.validate_loss import Loss
from xent.verdict.judging import judge
from xent.verdict.matching import pairs

WEIGHT = torch.ones(10).double().index_fill(0, torch.tensor([3]), 100.0)  # of class 3
WEIGHTED = nn.CrossEntropyLoss(WEIGHT)
MINUS_1 = partial(cross_entropy, weight=WEIGHT, ignore_index=-1)
WEIGHTS, OTHERS = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 2.0, 0.5005])
SMOOTHED: dict[str, Any] = {"label_smoothing": 0.1, "ignore_index": 1}
WITH_ARGUMENTS = nn.CrossEntropyLoss(WEIGHTS, **SMOOTHED), {"classes": 3, "ignored": 0.2}


class InFloat32(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.float(), target)


# Those of RIGHT and WRONG, each in one precision; benchmarks/verdict.py judges them in all. These take longest.
slow = partial(pytest.param, marks=pytest.mark.slow)
LONG = ("1000 classes", "float16", "float32", "wrong as")
PASS = {
    "scratch, 2 classes": Case(xent.CrossEntropyLossFromScratch(), task={"classes": 2, "ignored": 0.1}),
    "fused, 1000 classes": Case(xent.FusedCrossEntropyLoss(), task={"classes": 1000}),
    "fused, one weight of 100": Case(xent.FusedCrossEntropyLoss(WEIGHT), WEIGHTED, {"ignored": 0.9}),
    "the article's, 100 classes": Case(xent.ArticleCrossEntropyLoss(), task={"classes": 100}),
    "fused, 2 classes in bfloat16": Case(xent.FusedCrossEntropyLoss(), task={"classes": 2}, tested_in=bfloat16),
    "scratch in float16": Case(xent.CrossEntropyLossFromScratch(), tested_in=float16),
    "scratch, with arguments": Case(xent.CrossEntropyLossFromScratch(WEIGHTS, **SMOOTHED), *WITH_ARGUMENTS),
    "fused, with arguments": Case(xent.FusedCrossEntropyLoss(WEIGHTS, **SMOOTHED), *WITH_ARGUMENTS),
    "weights that stay in float32": Case(InFloat32(WEIGHT.float()), WEIGHTED, tested_in=bfloat16),
    "a partial that ignores -1": Case(MINUS_1, MINUS_1, {"ignored": 0.3}),
    "one that remembers its calls": Case(RunningMean(), RunningMean()),
    # Whose small gradients keep few digits, so that a loss times 8 has not quite 8 times its gradient.
    "probabilities in float16": Case(nn.CrossEntropyLoss(), task={"probabilities": True}, tested_in=float16),
}


def cases(all_names: Iterable[str]) -> list[Any]:
    """The names of cases, of which some are slow."""
    return [slow(name) if any(word in name for word in LONG) else name for name in all_names]


@pytest.mark.parametrize("name", [*cases(PASS), *map(slow, RIGHT)])
def test_a_right_loss_passes(name: str) -> None:
    case = (PASS | RIGHT)[name]
    assert_same_learning(case.loss, case.reference, dtype=case.tested_in, **case.task)


def padded(logits: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """A fixed batch size for one type of logits."""
    return cross_entropy(logits, target, reduction="sum") / (32 if logits.dtype == dtype else len(target))


def squared(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.softmax(1) - one_hot(target, logits.shape[1])).square().sum(1).mean()


THOUSANDTH = partial(gradient_scaled, by=1e-3)
DIFFERENT = {
    "a gradient off by 1e-12": Case(partial(gradient_scaled, by=1e-12)),
    "1.001 times the gradient, 2 classes": Case(THOUSANDTH, task={"classes": 2, "ignored": 0.1}),
    "1.001 times the gradient, 1000 classes": Case(THOUSANDTH, task={"classes": 1000}),
    "1.001 times the loss, one weight of 100": Case(lambda z, t: 1.001 * WEIGHTED(z, t), WEIGHTED, {"ignored": 0.9}),
    "padded in float64": Case(partial(padded, dtype=float64)),
    "padded in bfloat16": Case(partial(padded, dtype=bfloat16), tested_in=bfloat16),
    "another weight": Case(xent.FusedCrossEntropyLoss(OTHERS, **SMOOTHED), *WITH_ARGUMENTS),
    "the smallest factor, where much is ignored": Case(Impostor("gradient_scaled"), task={"ignored": 0.8}),
    "small terms dropped, where much is ignored": Case(Impostor("small_terms_dropped"), task={"ignored": 0.8}),
    "held against a function of another kind": Case(nn.CrossEntropyLoss(), squared),
}


@pytest.mark.parametrize("name", [*cases(DIFFERENT), *map(slow, WRONG)])
def test_a_wrong_loss_does_not(name: str) -> None:
    case = (DIFFERENT | WRONG)[name]
    error = BadInput if case.loss == deaf_to_what_comes_from_above else AssertionError
    with pytest.raises(error, match="training is different" if name in DIFFERENT else None):
        assert_same_learning(case.loss, case.reference, dtype=case.tested_in, where=False, **case.task)


@pytest.mark.parametrize("offset", [1e-9, torch.nan])
def test_a_loss_that_trains_the_same_and_reports_something_else_is_caught(offset: float) -> None:
    with pytest.raises(AssertionError, match=r"the loss has other values, .*\n.*\n  left the floor at step +1\n"):
        assert_same_learning(lambda logits, target: cross_entropy(logits, target) + offset)


def test_a_loss_that_overflows_or_clamps_beyond_what_a_short_training_reaches_is_caught() -> None:
    def overflowing(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.exp().sum(1).log() - logits.gather(1, target[:, None])[:, 0]).mean()

    for loss in (overflowing, lambda logits, target: cross_entropy(logits.clamp(-50, 50), target)):
        with pytest.raises(AssertionError, match=r"the loss of logits of 1000 is .*\n  subtract the largest") as caught:
            assert_same_learning(loss)
        assert "same_learning.py" not in str(caught.getrepr()), "pytest shows the call and not our source"


class LinearInside(nn.Linear):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(super().forward(input), target)


@pytest.mark.slow
def test_weights_of_a_loss_are_trained_in_a_copy_and_dtype_random_state_and_threads_are_left_alone() -> None:
    layer = LinearInside(10, 10, bias=False)
    before = layer.weight.detach().clone()
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(deepcopy(layer).requires_grad_(False), layer)
    assert torch.equal(layer.weight, before)

    state, threads, loss = torch.get_rng_state(), torch.get_num_threads(), nn.CrossEntropyLoss(torch.ones(3))
    torch.set_num_threads(threads + 1)
    assert_same_learning(loss, nn.CrossEntropyLoss(torch.ones(3)), classes=3)
    assert torch.get_num_threads() == threads + 1
    assert torch.equal(torch.get_rng_state(), state)
    assert loss.weight is not None and loss.weight.dtype == torch.float32


def asserting(logits: Tensor, target: Tensor) -> Tensor:
    raise AssertionError("mine")


OF_THE_BATCH = r"of float64 logits \[29, 10\] and class indices \[29\] "
NO_LOSS: list[tuple[Any, str]] = [
    (lambda logits: logits.sum(), OF_THE_BATCH + "cannot be computed .TypeError: "),
    (lambda logits, target: logits.sum().item(), OF_THE_BATCH + "is a float: expected a tensor of one number"),
    (nn.CrossEntropyLoss(reduction="none"), OF_THE_BATCH + r"is of shape .29,.: expected one number"),
    (lambda logits, target: logits.detach().sum(), OF_THE_BATCH + "has no gradient: "),
    (nn.CrossEntropyLoss(torch.ones(3)), OF_THE_BATCH + "cannot be computed .RuntimeError"),
    (asserting, "cannot be computed .AssertionError: mine."),
    (nn.CrossEntropyLoss, "is the class CrossEntropyLoss: expected an instance of it"),
    ("torch", "is a str: expected a torch.nn.Module"),
    (deaf_to_what_comes_from_above, "let its backward pass multiply by the gradient from above"),
]


def test_what_cannot_be_trained_with_is_refused_in_a_line() -> None:
    locked = nn.CrossEntropyLoss()
    locked.lock = threading.Lock()
    for loss, message in NO_LOSS:
        with pytest.raises(BadInput, match=f"^the loss .*{message}[^\n]*$"):
            assert_same_learning(loss)
        with pytest.raises(BadInput, match=f"^the reference .*{message}[^\n]*$"):
            assert_same_learning(nn.CrossEntropyLoss(), loss)
    with pytest.raises(BadInput, match="^the loss cannot be copied .*: give it as a function, lambda [^\n]*$"):
        assert_same_learning(locked)
    with pytest.raises(BadInput, match="^the loss .* cannot be computed .IndexError: "):
        assert_same_learning(xent.ArticleCrossEntropyLoss(), ignored=0.5)


def test_a_task_that_cannot_be_is_refused() -> None:
    for arguments in ({"classes": 1}, {"ignored": 1.0}, {"ignored": -0.1}, {"ignored": 0.1, "probabilities": True}):
        words = ", ".join(f"{name}={value}" for name, value in arguments.items())
        with pytest.raises(ValueError, match=f"{words}.*: expected 2 classes or more, and a part from 0 to below 1"):
            assert_same_learning(nn.CrossEntropyLoss(), **arguments)
    with pytest.raises(ValueError, match="dtype=torch.int64: expected torch.float64, float32, bfloat16 or float16"):
        assert_same_learning(nn.CrossEntropyLoss(), dtype=torch.int64)


def test_what_proves_a_loss_needs_torch_and_numpy_alone() -> None:
    absent = ("hydra", "omegaconf", "torchvision", "tensorboard", "matplotlib", "rich", "filelock")
    script = f"import sys; sys.modules |= dict.fromkeys({absent}); import xent.testing"  # None: importing it fails
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True)


def in_numpy(logits: Tensor, target: Tensor) -> Tensor:
    """As a kernel that PyTorch does not see into, in float32."""

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor) -> Tensor:
            z, at_target = logits.detach().numpy().astype("float32"), (range(len(target)), target.numpy())
            z -= z.max(1, keepdims=True)
            p = np.exp(z)
            total = p.sum(1, keepdims=True)
            loss, p = (np.log(total[:, 0]) - z[at_target]).mean(), p / total
            p[at_target] -= 1
            ctx.gradient = torch.from_numpy(p / len(p)).to(logits.dtype)
            return torch.tensor(float(loss), dtype=logits.dtype)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return ctx.gradient * gradient

    return Kernel.apply(logits)


CASTS: dict[str, tuple[Loss, str]] = {
    "smoothing of 0.11 after a cast": (lambda z, t: cross_entropy(z.float(), t, label_smoothing=0.11), "is different"),
    "temperature 1.000001 after a cast": (lambda z, t: cross_entropy(z.float() / 1.000001, t), "seen through +float32"),
    "a cast to bfloat16": (
        lambda z, t: cross_entropy(z.bfloat16(), t).to(z),
        "the same function, computed in bfloat16",
    ),
    "a cast that only float32 gets": (
        lambda z, t: cross_entropy(z.half() if z.dtype == torch.float32 else z, t),
        "the same function, computed in float16\n .*judge it with dtype=torch.float16",
    ),
    "autocast inside": (
        lambda z, t: cross_entropy(torch.autocast("cpu", bfloat16)(torch.mm)(z, torch.eye(10).to(z)), t),
        "the same function, computed in bfloat16",
    ),
    "wrong as it is written": (
        lambda z, t: cross_entropy(z.float(), t) * (1.001 if z.dtype == torch.float32 else 1),
        "is different(.*\n)*.*the gradient is 1.001.*\n  it casts to float32, so it was judged as written too",
    ),
    "a kernel of NumPy": (in_numpy, "it computes outside of PyTorch, where float64 does not reach: give the dtype"),
}


@pytest.mark.parametrize("name", cases(CASTS))
def test_a_cast_hides_no_mistake_and_is_not_hidden(name: str) -> None:
    loss, message = CASTS[name]
    with pytest.raises(AssertionError, match=message):
        assert_same_learning(loss, where=False)


def test_a_compiled_loss_is_judged_as_plain_code() -> None:
    def never(*_: Any) -> None:
        raise AssertionError("compiled")

    assert_same_learning(torch.compile(lambda z, t: cross_entropy(z, t), backend=never, fullgraph=True))


@pytest.mark.slow
def test_what_computes_in_its_own_type_passes_where_that_is_named() -> None:
    assert_same_learning(in_numpy, dtype=torch.float32)
    assert_same_learning(lambda z, t: cross_entropy(z.bfloat16(), t).to(z), dtype=bfloat16)
    assert_same_learning(lambda z, t: cross_entropy(z, t, reduction="sum") / (t >= 0).float().sum())


def message_of(loss: Loss) -> list[str]:
    """What a failed proof says, each line without the spaces that align it."""
    with pytest.raises(AssertionError) as caught:
        assert_same_learning(loss)
    assert "same_learning.py" not in str(caught.getrepr()), "pytest shows the call and not our source"
    return [" ".join(line.split()) for line in str(caught.value).splitlines()]


def test_the_message_says_by_how_much_from_when_and_what_was_expected() -> None:
    lines = message_of(partial(gradient_scaled, by=1e-6))
    assert lines[0] == "training is different from training with the reference"
    assert re.fullmatch(r"decades above the floor 8\.\d, where 2\.0 are rounding", lines[1])
    assert lines[2] == "left the floor at step 1"
    assert lines[3].removeprefix("loss at step 1 ") == lines[4].removeprefix("expected "), "its gradient alone is wrong"
    ours, theirs = (float(line.split()[-1]) for line in lines[5:7])
    assert lines[5].startswith("gradient of logit [")
    assert ours / theirs == pytest.approx(1 + 1e-6, rel=1e-12)
    assert lines[7].startswith("where step 1, gradient at the output of 3 (Linear): 1"), "of the last module"
    assert lines[-1] == "the gradient is 1.000001 times the reference's: a constant factor"


@pytest.mark.slow
def test_the_evidence_is_of_a_step_at_which_the_mistake_was_made() -> None:
    lines = message_of(Impostor("probabilities_clamped"))
    assert int(re.findall(r"loss at step (\d+)", lines[3])[0]) > 32
    assert float(lines[5].split()[-1]) == 0, "the gradient of what is clamped"
    assert float(lines[6].split()[-1]) != 0
    lines = message_of(RunningMean())
    assert lines[0] == "the loss has other values, though training is the same as with the reference"
    assert float(lines[3].split()[-1]) != float(lines[4].split()[-1]), "at step 1 it is the same"


def test_the_message_about_nan_and_about_a_loss_that_writes_over_its_targets() -> None:
    lines = message_of(lambda logits, target: logits.sum() * torch.nan)
    assert lines[3] == "loss at step 1 nan" and float(lines[4].removeprefix("expected ")) > 2

    def doubled(logits: Tensor, target: Tensor) -> Tensor:
        loss = 2 * cross_entropy(logits, target.clone())
        target.fill_(0)
        return loss

    assert message_of(doubled)[-1] == "the gradient is 2 times the reference's: a constant factor", (
        "of their old values"
    )


(APART,) = judge(pairs([*nudged(1e-15, 1e-15), run("scratch", 1e-3)]))
GRADIENT = torch.randn(29, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_explanation_names_a_constant_factor_and_its_likely_cause() -> None:
    causes = {"0.1": "a mean over the classes too?", "29": "a sum in place of the mean?", "-1": "a sign?"}
    causes |= {"1.442695041": "a logarithm to base 2?", "0.5": "a constant factor"}
    for factor, cause in causes.items():
        message = explanation(APART, "", Evidence(1, 2.0, 2.0, float(factor) * GRADIENT, GRADIENT))
        assert message.endswith(f"\n  the gradient is {factor} times the reference's: {cause}")
