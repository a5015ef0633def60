"""What each loss is made of, how exact it is, and which mistakes a training shows."""

from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from benchmarks.exactness import errors, measure, oracle
from tests.helpers.accelerators import Operations
from tests.helpers.drop_ins import DTYPES, Loss
from xent import ArticleCrossEntropyLoss
from xent.losses.impostors import MISTAKES, MISTAKES_IN_IGNORING, Impostor
from xent.testing.same_learning import judge_learning
from xent.training.task import Task


def operations(loss: Loss, target: Tensor | None = None, **arguments: Any) -> set[str]:
    logits = torch.randn(8, 5, requires_grad=True)
    target = torch.arange(8) % 5 if target is None else target
    with Operations() as counter:
        (gradient,) = torch.autograd.grad(loss(logits, target, **arguments), logits, create_graph=True)
        gradient.pow(2).sum().backward()
    return {name.split(".")[1] for name in counter.counted}  # aten.exp.default


def test_basic_operations_only(loss: Loss) -> None:
    forbidden = ("softmax", "logsumexp", "nll_loss", "cross_entropy", "logcumsumexp")
    plain, weighted = operations(loss), operations(loss, weight=torch.ones(5))
    assert "index" in weighted - plain, "weights are looked up where they are given alone"
    assert operations(loss, ignore_index=2) == plain, "ignored targets are always looked for"
    smoothed, expected = operations(loss, label_smoothing=0.1), operations(loss, torch.full((8, 5), 0.2))
    for used in (plain, weighted, smoothed, expected):
        assert "sum" in used and {"exp", "exp_"} & used
        assert not [name for name in used if any(word in name for word in forbidden)], used
    pytorchs = operations(torch.nn.functional.cross_entropy)
    assert {"_log_softmax", "nll_loss_forward", "_log_softmax_backward_data"} <= pytorchs, "the recorder sees them"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_exact_however_far_the_target_is_behind(loss: Loss, dtype: torch.dtype) -> None:
    behind = torch.tensor([[0.0], [39.0], [40.0], [41.0], [87.0], [100.0], [1000.0], [-40.0], [-1000.0]], dtype=dtype)
    for level in (0.0, 2.0**30, -(2.0**30)):
        logits, target = level + torch.cat([0 * behind, behind, behind - 1], 1), torch.zeros(9, dtype=torch.long)
        for ours, exact in zip(measure(loss, logits, target), oracle(logits, target)):
            assert errors(ours, exact).max() < 100, "units in the last place"


@pytest.mark.parametrize("behind", [-20.0, 0.0, 39.0, 60.0, 87.0])
def test_float32_keeps_the_digits_of_the_value_and_two_derivatives(loss: Loss, behind: float) -> None:
    """20 ahead, PyTorch says 0 and 0, where 2e-9 is the truth. Far behind, the square of the odds may overflow."""
    logits = torch.tensor([[0.0, behind]], requires_grad=True)
    value = loss(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0, 0], logits)
    odds = mpmath.exp(behind)
    p, pq = float(odds / (1 + odds)), float(odds / (1 + odds) ** 2)
    assert value.item() == pytest.approx(float(mpmath.log1p(odds)), rel=2e-7, abs=0)
    assert gradient.tolist()[0] == pytest.approx([-p, p], rel=2e-7, abs=0)
    assert second.tolist()[0] == pytest.approx([pq, -pq], rel=1e-5)


def test_the_largest_finite_logits_do_not_overflow(loss: Loss) -> None:
    for dtype in DTYPES:
        largest = torch.finfo(dtype).max
        logits = torch.tensor([[largest, -largest], [largest, largest]], dtype=dtype, requires_grad=True)
        value = loss(logits, torch.tensor([0, 0]), reduction="none")
        assert value.tolist() == [0, pytest.approx(0.6931, rel=5e-3)]
        assert torch.autograd.grad(value.sum(), logits)[0].tolist() == [[0, 0], [-0.5, 0.5]]


def test_the_article_computes_its_example_and_logits_of_1000_do_not_overflow() -> None:
    torch.manual_seed(0)
    logits, target, article = torch.randn(4, 3), torch.tensor([0, 1, 2, 1]), ArticleCrossEntropyLoss()
    assert f"{article(logits, target):.4f}" == "1.4412"
    assert torch.isclose(article(logits, target), torch.nn.functional.cross_entropy(logits, target))
    assert article(torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]]), torch.tensor([0, 0])) == 500


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_impostor_is_different_where_its_mistake_shows_and_has_no_other(mistake: str) -> None:
    assert len((MISTAKES[mistake].__doc__ or "").splitlines()) == 1, "which states the mistake"
    needs_ignored = mistake in MISTAKES_IN_IGNORING
    for ignored in (0.1, 0.0) if needs_ignored else (0.0,):
        verdict = judge_learning(Impostor(mistake), torch.nn.CrossEntropyLoss(), Task(10, ignored=ignored)).verdict
        is_another = mistake != "lower_precision" and (ignored > 0 or not needs_ignored)  # that is the same function
        assert (verdict == "different") == is_another
    if not needs_ignored:
        logits, target = torch.randn(6, 4), torch.tensor([0, 1, 3, 3, 2, 1])
        expected = Impostor(mistake)(logits[target != 3], target[target != 3])
        assert torch.equal(Impostor(mistake, ignore_index=3)(logits, target), expected)
