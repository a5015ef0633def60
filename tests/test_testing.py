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
from torch import Tensor, bfloat16, float16, float32, float64, nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot

import xent
from tests.helpers.commands import PROJECT
from tests.helpers.right_losses import RIGHT, Case
from tests.helpers.runs import nudged, run
from tests.helpers.wrong_losses import WRONG, RunningMean, deaf_to_what_comes_from_above
from xent.losses.impostors import Impostor, gradient_scaled
from xent.recording.errors import BadInput
from xent.report.explanation import Evidence, explanation
from xent.testing import assert_same_learning, from_numpy
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
        assert_same_learning(case.loss, case.reference, dtype=case.tested_in, where=False, steps=64, **case.task)


@pytest.mark.parametrize("offset", [1e-9, torch.nan])
def test_a_loss_that_trains_the_same_and_reports_something_else_is_caught(offset: float) -> None:
    with pytest.raises(AssertionError, match=r"the loss has other values, .*\n.*\n  left the floor at step +1\n"):
        assert_same_learning(lambda logits, target: cross_entropy(logits, target) + offset)


def test_what_no_short_training_shows_is_tried_after_it_and_what_raises_an_error_there_is_warned_of() -> None:
    def overflowing(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.exp().sum(1).log() - logits.gather(1, target[:, None])[:, 0]).mean()

    lines = message_of(overflowing)
    assert lines[0] == "training is the same as with the reference, but the loss differs from it on"
    assert lines[1].startswith("logits of 1000 its loss is inf, not 242.") and len(lines) == 3
    assert lines[2] == "exp overflows: subtract the largest logit of a row before it"

    def of_many(logits: Tensor, target: Tensor) -> Tensor:
        assert len(logits) > 1, "rows, please"
        return cross_entropy(logits, target)

    with pytest.warns(UserWarning, match=r"^not proved, .*: a batch of 1 .AssertionError: rows, please") as warned:
        assert_same_learning(of_many)
    assert warned[0].filename == __file__


def test_an_error_of_the_loss_in_training_is_no_verdict_and_is_told_in_a_line_with_its_source() -> None:
    class Thrice(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            assert self.calls <= 3, "thrice"
            return super().forward(input, target)

    source = r'tests/test_testing.py:\d+: assert self.calls <= 3, "thrice".$'
    what = "the training of seed 0 stopped after 3 steps .AssertionError: thrice"
    with pytest.raises(BadInput, match=f"^{what} [^\n]*; {source}") as caught:
        assert_same_learning(Thrice())
    shown = str(caught.getrepr())
    assert "same_learning.py" not in shown and "in forward" not in shown, "pytest shows the call and not our source"


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


class Tagged(LinearInside):
    """Reads an attribute of its weight, which deepcopy leaves out, and holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(10, 10, bias=False)
        self.weight.is_frozen = False  # type: ignore[attr-defined]
        self.lock, self.last = threading.Lock(), self.weight * 1

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        assert not self.weight.is_frozen  # type: ignore[attr-defined]
        with self.lock:
            self.last = self.weight * 1
        return super().forward(input, target)


class Uncopyable(nn.CrossEntropyLoss):
    def __deepcopy__(self, memo: Any) -> "Uncopyable":
        raise TypeError("one of a kind")


def test_what_cannot_be_copied_of_a_module_is_shared_and_a_module_that_cannot_be_is_taken_as_a_function() -> None:
    loss, same = Tagged(), LinearInside(10, 10, bias=False)
    same.load_state_dict(loss.state_dict())
    before = loss.weight.detach().clone()
    assert_same_learning(loss, same, steps=32)
    assert torch.equal(loss.weight, before)
    assert_same_learning(Uncopyable(WEIGHT), WEIGHTED, steps=32)
    trained = nn.Linear(10, 10)
    trained.__class__ = type("Both", (Uncopyable, LinearInside), {})
    with pytest.raises(BadInput, match="^the loss cannot be copied .TypeError: one of a kind.: give it as a function"):
        assert_same_learning(trained)


def test_what_a_loss_holds_in_float32_is_widened_and_attributes_of_its_weights_are_the_callers() -> None:
    weight = torch.tensor([1.0, 2.0, 0.5])
    loss = lambda z, t: cross_entropy(z, t, weight=weight)  # noqa: E731
    assert_same_learning(loss, nn.CrossEntropyLoss(weight), classes=3, steps=16)
    assert_same_learning(loss, loss, classes=3, steps=16)
    layer = LinearInside(10, 10, bias=False).requires_grad_(False)
    assert_same_learning(lambda z, t: layer(z, t), lambda z, t: cross_entropy(z @ layer.weight.T, t), steps=16)
    layer.weight.count = torch.zeros(())  # type: ignore[attr-defined]
    layer.register_forward_hook(lambda module, _, output: output + 0 * module.weight.count.add_(1))
    assert_same_learning(layer.requires_grad_(), layer, steps=16, dtype=torch.float32)
    assert layer.weight.count == 0  # type: ignore[attr-defined]


def test_a_reference_that_raises_an_error_or_has_no_gradient_is_refused_in_a_line() -> None:
    class Late(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 4:
                raise KeyError("late")
            return super().forward(input, target)

    with pytest.raises(
        BadInput, match="^the reference cannot be computed on a batch .KeyError: 'late'; tests/test_tes"
    ):
        assert_same_learning(nn.CrossEntropyLoss(), Late())
    with pytest.raises(BadInput, match="^the gradient of the reference is 0 on every batch: it trains nothing$"):
        assert_same_learning(lambda z, t: (0 * z).sum(), lambda z, t: (0 * z).sum())


def test_batch_steps_seeds_and_the_ignored_index_can_be_given() -> None:
    sizes: list[int] = []

    def counting(logits: Tensor, target: Tensor) -> Tensor:
        sizes.append(len(logits))
        return cross_entropy(logits, target, ignore_index=-1)

    by_default = lambda z, t: cross_entropy(z, t, ignore_index=-1)  # noqa: E731  whose index cannot be read
    with pytest.raises(BadInput, match="Target -100 is out of bounds.*; the index of ignored targets was"):
        assert_same_learning(by_default, by_default, ignored=0.3)
    assert_same_learning(counting, by_default, ignored=0.3, ignore_index=-1, batch=70, steps=8, seeds=3, where=False)
    assert sizes.count(70) == 3 * 8 + 8, "steps times seeds; and before and after them it is only tried"

    def of_64(logits: Tensor, target: Tensor) -> Tensor:
        return torch.stack([cross_entropy(z, t) for z, t in zip(logits.split(64), target.split(64))]).mean()

    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(of_64, where=False)


class Marked(Tensor):
    pass


def test_a_gradient_of_another_class_of_tensors_is_told_as_any_other() -> None:
    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
            ctx.save_for_backward(logits.softmax(1) - one_hot(target, 10))
            return cross_entropy(logits, target)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
            (of_sum,) = ctx.saved_tensors
            return (1.5 * gradient * of_sum / len(of_sum)).as_subclass(Marked), None

    lines = message_of(Kernel.apply)
    assert (
        lines[-1] == "the gradient is 1.5 times the reference's: a constant factor, or another denominator of the mean?"
    )


def test_a_loss_of_numpy_arrays_is_judged_in_the_type_that_it_computes_in() -> None:
    def value_and_grad(logits: Any, target: Any, factor: float = 1.0) -> tuple[Any, Any]:
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        rows = np.arange(len(p)), target
        value = -np.log(p[rows]).mean()
        p[rows] -= 1
        return value, factor * p / len(p)

    loss = from_numpy(value_and_grad)
    logits, target = torch.randn(3, 4, dtype=bfloat16, requires_grad=True), torch.tensor([0, 1, 3])
    loss(logits, target).backward()
    assert logits.grad is not None and logits.grad.dtype == bfloat16
    with pytest.raises(AssertionError, match="training is the same .*\n  logits of 1000 +its loss is inf"):
        assert_same_learning(loss, steps=64)
    with pytest.raises(
        AssertionError,
        match=r"the gradient is 1\.5 times the reference's: a constant factor, or another denominator of the mean.$",
    ):
        assert_same_learning(from_numpy(partial(value_and_grad, factor=1.5)), where=False, steps=64)
    # The value is right, so the gradient is not off by the rounding of another type; and float32 has been named.
    place = "gradient at the output of 3 .Linear."
    factor = r"the gradient is 1\.00001 times the reference's: a constant factor, or another denominator of the mean.$"
    for dtype in (float64, float32):
        with pytest.raises(AssertionError, match=f"{place}(.*\n)*.*{factor}"):
            assert_same_learning(from_numpy(partial(value_and_grad, factor=1 + 1e-5)), dtype=dtype)
    for result, message in [
        ((0.0, np.zeros(3)), r"gradient with respect to the logits is of shape .3,.: expected .131, 10."),
        ((0.0, (np.zeros((131, 10)), np.zeros(1))), r"with respect to the target is of shape .1,.: expected .131,."),
        ((0.0, (0, 1, 2)), "gave 3 gradients: expected that of the logits, or a pair"),
        ((0.0, np.zeros((131, 10), complex)), "logits is an array of complex128: expected real numbers"),
        ((np.zeros(1), np.zeros((131, 10))), r"the loss is of shape .1,.: expected .."),
        (np.float64(1.0), r"value_and_grad gave a float64: expected .loss, gradient of the logits."),
    ]:
        with pytest.raises(BadInput, match=message):
            assert_same_learning(from_numpy(lambda z, t, result=result: result))


def asserting(logits: Tensor, target: Tensor) -> Tensor:
    raise AssertionError("mine")


OF_THE_BATCH = r"of float64 logits \[131, 10\] and class indices \[131\] "
NO_LOSS: list[tuple[Any, str]] = [
    (lambda logits: logits.sum(), OF_THE_BATCH + "cannot be computed .TypeError: "),
    (lambda logits, target: logits.sum().item(), OF_THE_BATCH + "is a float: expected a tensor of one number"),
    (nn.CrossEntropyLoss(reduction="none"), OF_THE_BATCH + r"is of shape .131,.: expected one number"),
    (lambda logits, target: cross_entropy(logits, target)[None], r"is of shape .1,.: expected a scalar, .* .squeeze"),
    (lambda logits, target: logits.detach().sum(), OF_THE_BATCH + "has no gradient: "),
    (nn.CrossEntropyLoss(torch.ones(3)), OF_THE_BATCH + "cannot be computed .RuntimeError"),
    (asserting, r"cannot be computed .AssertionError: mine; tests/test_testing.py:\d+: raise AssertionError.*mine"),
    (nn.CrossEntropyLoss, "is the class CrossEntropyLoss: expected an instance of it"),
    ("torch", "is a str: expected a torch.nn.Module"),
    (deaf_to_what_comes_from_above, "let its backward pass multiply by the gradient from above"),
]


def test_what_cannot_be_trained_with_is_refused_in_a_line() -> None:
    for loss, message in NO_LOSS:
        with pytest.raises(BadInput, match=f"^the loss .*{message}[^\n]*$"):
            assert_same_learning(loss)
        with pytest.raises(BadInput, match=f"^the reference .*{message}[^\n]*$"):
            assert_same_learning(nn.CrossEntropyLoss(), loss)
    with pytest.raises(BadInput, match="^the loss .* cannot be computed .IndexError: "):
        assert_same_learning(xent.ArticleCrossEntropyLoss(), ignored=0.5)


def test_a_task_that_cannot_be_is_refused() -> None:
    for arguments in ({"classes": 1}, {"ignored": 1.0}, {"ignored": -0.1}, {"ignored": 0.1, "probabilities": True}):
        words = ", ".join(f"{name}={value}" for name, value in arguments.items())
        with pytest.raises(ValueError, match=f"{words}.*: expected 2 classes or more, and a part from 0 to below 1"):
            assert_same_learning(nn.CrossEntropyLoss(), **arguments)
    with pytest.raises(ValueError, match="batch=0, steps=256, seeds=None: expected 1 or more of each"):
        assert_same_learning(nn.CrossEntropyLoss(), batch=0)
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
    assert lines[5] == "relative error 0.0e+00"
    ours, theirs = (float(line.split()[-1]) for line in lines[6:8])
    assert lines[6].startswith("gradient of logit [")
    assert ours / theirs == pytest.approx(1 + 1e-6, rel=1e-12)
    assert lines[8:10] == ["relative error 1.0e-06", "error of the whole gradient 1.0e-06"]
    assert lines[10].startswith("where step 1, gradient at the output of 3 (Linear): 9.9"), "of the last module"
    assert (
        lines[-1]
        == "the gradient is 1.000001 times the reference's: a constant factor, or another denominator of the mean?"
    )


@pytest.mark.slow
def test_the_evidence_is_of_a_step_at_which_the_mistake_was_made() -> None:
    lines = message_of(Impostor("probabilities_clamped"))
    assert int(re.findall(r"loss at step (\d+)", lines[3])[0]) > 32
    assert float(lines[6].split()[-1]) == 0, "the gradient of what is clamped"
    assert float(lines[7].split()[-1]) != 0
    assert lines[-1].startswith("no gradient in rows whose target has a small probability, up to ")
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

    assert (
        message_of(doubled)[-1]
        == "the gradient is 2 times the reference's: a constant factor, or another denominator of the mean?"
    ), "of their old values"


(APART,) = judge(pairs([*nudged(1e-15, 1e-15), run("scratch", 1e-3)]))
GRADIENT = torch.randn(29, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_explanation_names_a_constant_factor_and_its_likely_cause() -> None:
    causes = {"0.1": "a mean over the classes too?", "29": "a sum in place of the mean?", "-1": "a sign?"}
    causes |= {"1.442695041": "a logarithm to base 2?", "0.5": "a constant factor, or another denominator of the mean?"}
    for factor, cause in causes.items():
        message = explanation(
            APART, "", Evidence(1, 2.0, 2.0, float(factor) * GRADIENT, GRADIENT, GRADIENT.softmax(1), None)
        )
        assert message.endswith(f"\n  the gradient is {factor} times the reference's: {cause}")


def test_an_explanation_names_an_eps_inside_a_logarithm_and_a_clamp() -> None:
    def with_eps(logits: Tensor, target: Tensor) -> Tensor:
        return nll_loss((logits.softmax(1) + 1e-6).log(), target)

    def with_eps_beside_the_sum(logits: Tensor, target: Tensor, is_detached: bool = True) -> Tensor:
        largest = logits.amax(1, keepdim=True)
        ahead = logits - (largest.detach() if is_detached else largest)
        return nll_loss(ahead - (ahead.exp().sum(1, keepdim=True) + 1e-6).log(), target)

    hints = {
        with_eps: r"as of -log\(p \+ 1e-06\): an eps inside a logarithm\?",
        with_eps_beside_the_sum: r"as of log\(sum of exponentials \+ eps\): an eps inside a logarithm\?",
        partial(with_eps_beside_the_sum, is_detached=False): r"as of log\(sum of exponentials",
        lambda z, t: cross_entropy(z.clamp(-2, 2), t): r"no gradient at \d+ of 1310 logits, where",
    }
    for loss, hint in hints.items():
        with pytest.raises(AssertionError, match=f"\n  {hint}"):
            assert_same_learning(loss, where=False, steps=64)
