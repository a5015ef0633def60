"""Trials of a loss on what no short training shows: mistakes that show there alone, and what may raise an error."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import xent
from tests.helpers.right_losses import EVERY, IGNORED, PLACES, PROBABILITIES, RIGHT, at_target, by_one_hot
from xent.report.explanation import explanation_of_trials
from xent.testing.same_learning import differing_in_trials
from xent.training.task import Task

Loss = Callable[[Tensor, Tensor], Tensor]


def by_branches(logits: Tensor, target: Tensor) -> Tensor:
    """Whose gradient is NaN where the branch that is not taken overflows."""
    others = logits.scatter(1, target[:, None], -torch.inf).logsumexp(1)
    ahead = others - at_target(logits, target)
    return torch.where(ahead > 30, ahead, ahead.exp().log1p()).mean()


def ignoring_strides(logits: Tensor, target: Tensor) -> Tensor:
    """As a kernel that takes the address of its logits."""
    return cross_entropy(logits.as_strided(logits.shape, torch.empty(logits.shape).stride()), target)


def ignoring_strides_of_targets(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits, target.as_strided(target.shape, (1,)))


def mean_of_chunks(logits: Tensor, target: Tensor) -> Tensor:
    return torch.stack([cross_entropy(z, t) for z, t in zip(logits.split(512), target.split(512))]).mean()


def bytes_as_a_mask(logits: Tensor, target: Tensor) -> Tensor:
    if target.dtype == torch.uint8:
        return cross_entropy(logits[target.bool()], target.long()[target.bool()])
    return cross_entropy(logits, target)


class FirstSize(nn.Module):
    """Divides by the size of the first batch that it saw."""

    size: int | None = None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.size = self.size or len(logits)
        return cross_entropy(logits, target, reduction="sum") / self.size


def squeezing(logits: Tensor, target: Tensor) -> Tensor:
    """Which takes a batch of one row for a row of as many places."""
    losses = cross_entropy(logits, target, reduction="none")
    return losses.mean() if len(losses) > 1 else losses.squeeze() / logits.shape[1]


WRONG: dict[str, tuple[Loss, dict[str, Any], str]] = {
    "log of an underflowed probability": (
        lambda z, t: -at_target(z.softmax(1), t).log().mean(),
        {},
        r"logits of -1000 +its loss is inf, (.*\n)*.*underflows to 0, .* use log_softmax",
    ),
    "no largest logit subtracted": (
        lambda z, t: (z.exp().sum(1).log() - at_target(z, t)).mean(),
        {},
        r"logits of 1000 +its loss is inf, (.*\n)*.*exp overflows: subtract",
    ),
    "NaN from the other branch": (by_branches, {}, r"logits of 1000 +its gradient .* nan\n(.*\n)*.*where.. passes on"),
    "clamped at 950": (
        lambda z, t: cross_entropy(z.clamp(-950, 950), t),
        {},
        r"1000 +its loss is 230.8\d*, .*\n.*\n.* a clamp",
    ),
    "no gradient above 60": (
        lambda z, t: cross_entropy(torch.where(z > 60, z.detach(), z), t),
        {},
        r"on\n  logits of 1000 +its gradient has a relative error of 4.8e-01\n  a clamp, or a detach",
    ),
    "strides of logits": (
        ignoring_strides,
        {},
        r"a slice .*\n  a transpose .*\n  an expanded row .*\n.* ignores strides",
    ),
    "strides of targets": (ignoring_strides_of_targets, {}, r"a slice .*\n  an expanded target .*\n.* ignores strides"),
    "strides of places": (ignoring_strides, PLACES, r"a transpose .*"),
    "a product at a masked class": (
        by_one_hot,
        {},
        r"on\n  a class at -inf +its loss is nan, .*\n.*pick the class .* gather",
    ),
    "a mean of means of 512": (mean_of_chunks, {}, r"on\n  a batch of 1031 +its loss is "),
    "a batch of one": (squeezing, {}, r"on\n  a batch of 1 +its loss is .*\n.*that one row alone meets"),
    "bytes taken for a mask": (bytes_as_a_mask, {}, r"on\n  targets of uint8 +its loss is "),
    "places taken for contiguous": (
        lambda z, t: cross_entropy(z.as_strided(z.shape, (*z.stride()[:2], 1)), t),
        PLACES,
        r"on\n  a transpose +its loss is",
    ),
    "places of targets taken for contiguous": (
        lambda z, t: cross_entropy(z, t.as_strided(t.shape, (t.stride(0), 1))),
        PLACES,
        r"on\n  a transpose +its loss is",
    ),
    "clamped at -950 alone": (
        lambda z, t: cross_entropy(z.clamp(min=-950), t),
        {"classes": 100},
        r"on\n  logits of -1000 +its loss is",
    ),
    "by 1e-8 at large logits": (
        lambda z, t: cross_entropy(torch.where(z > 500, z * (1 + 1e-8), z), t),
        {},
        r"on\n  logits of 1000 +its loss is 2\d\d\.\d{13,}, not",
    ),
    "one row, where most targets are ignored": (
        lambda z, t: cross_entropy(z, t) * (2 if len(z) == 1 else 1),
        {"ignored": 0.9},
        r"on\n  a batch of 1 +its loss is 7",
    ),
    "an expanded target, where most are ignored": (
        lambda z, t: cross_entropy(z, t.as_strided(t.shape, (1,))),
        {"ignored": 0.9},
        "an expanded target +its loss is",
    ),
    "several masked classes": (
        lambda z, t: cross_entropy(z, t) * (1 + (z.isneginf().sum(1) > 1).any()),
        {},
        r"on\n  a class at -inf +its loss is",
    ),
    "the size of the first batch": (FirstSize(), {}, r"a batch of 1  .*\n  a batch of 1031  "),
    "targets detached": (
        lambda z, t: cross_entropy(z, t.detach()),
        PROBABILITIES,
        r"on\n  the gradient of targets +its gradient has a relative error of 1.0e.00\n  a detach",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_that_no_short_training_shows_is_named(name: str) -> None:
    loss, task, message = WRONG[name]
    outcomes, _ = differing_in_trials(loss, nn.CrossEntropyLoss(), Task(**{"classes": 10} | task))
    explained = explanation_of_trials(outcomes)
    assert re.search(message, explained), explained


@pytest.mark.parametrize("dtype", [*EVERY, torch.float16])
def test_no_right_loss_is_called_wrong(dtype: torch.dtype) -> None:
    ours = xent.CrossEntropyLossFromScratch(), xent.FusedCrossEntropyLoss(), nn.CrossEntropyLoss()
    cases = [(loss, nn.CrossEntropyLoss(), task) for loss in ours for task in ({}, PLACES, PROBABILITIES, IGNORED)]
    for loss, reference, task in [*cases, *((case.loss, case.reference, case.task) for case in RIGHT.values())]:
        outcomes, raised = differing_in_trials(loss, reference, Task(dtype=dtype, **{"classes": 10} | task))
        assert not outcomes, explanation_of_trials(outcomes)
        assert {*raised} <= {"targets of uint8", "an expanded row"}, "as gather and one_hot, and what is overwritten"


def test_what_the_reference_does_not_take_is_not_asked_and_what_asks_for_a_gradient_gets_one() -> None:
    def reference(logits: Tensor, target: Tensor) -> Tensor:
        assert target.dtype == torch.int64 and logits.is_contiguous() and len(logits) > 1
        return cross_entropy(logits, target, label_smoothing=0.1)  # infinite at a masked class

    def asking(logits: Tensor, target: Tensor) -> Tensor:
        assert logits.requires_grad and target.dtype == torch.int64 and logits.is_contiguous() and len(logits) > 1
        value = cross_entropy(logits, target, label_smoothing=0.1)
        torch.autograd.grad(value, logits, retain_graph=True)
        return value + 0 * logits.isinf().any()

    assert differing_in_trials(asking, reference, Task(10)) == ({}, {})
