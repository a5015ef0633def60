"""Cross entropy as others write it, and rightly: what must never be called different.

`RIGHT` has each with what it is held against, and the task that it is for; benchmarks/verdict.py counts them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, nll_loss, one_hot, softplus
from torch.utils.checkpoint import checkpoint

WEIGHT = torch.tensor([1.0, 10.0, 0.5, *[1.0] * 7], dtype=torch.float64)
EVERY = (torch.float64, torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """A loss, and how it is judged by `assert_same_learning`."""

    loss: Callable[[Tensor, Tensor], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor] = field(default_factory=nn.CrossEntropyLoss)
    task: dict[str, Any] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = EVERY


def by_one_hot(logits: Tensor, target: Tensor) -> Tensor:
    return -(one_hot(target, logits.shape[1]) * logits.log_softmax(1)).sum(1).mean()


def by_logsumexp(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]).mean()


def by_softplus(logits: Tensor, target: Tensor) -> Tensor:
    """The softplus of how far the other classes are ahead of the target."""
    others = logits.scatter(1, target[:, None], -torch.inf).logsumexp(1)
    return softplus(others - logits.gather(1, target[:, None])[:, 0], threshold=40).mean()


def by_powers_of_2(logits: Tensor, target: Tensor) -> Tensor:
    """As kernels do, whose exp2 is faster than exp."""
    bits = (logits - logits.amax(1, keepdim=True)) / math.log(2)
    return nll_loss((bits - bits.exp2().sum(1, keepdim=True).log2()) * math.log(2), target)


def by_parts_of_the_classes(logits: Tensor, target: Tensor) -> Tensor:
    """A running largest logit and sum, as kernels do that never hold all classes at once."""
    largest = logits.new_full((len(logits),), -torch.inf)
    total = torch.zeros_like(largest)
    for part in logits.split(4, dim=1):
        new = torch.maximum(largest, part.amax(1))
        total = total * (largest - new).exp() + (part - new[:, None]).exp().sum(1)
        largest = new
    return (total.log() + largest - logits.gather(1, target[:, None])[:, 0]).mean()


def by_parts_of_the_batch(logits: Tensor, target: Tensor) -> Tensor:
    """Sums over parts of a batch, over the number of targets that count."""
    parts = zip(logits.split(8), target.split(8))
    total = torch.stack([cross_entropy(z.float(), t, reduction="sum") for z, t in parts]).sum()
    return total / (target != -100).sum()


def in_float32(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits.float(), target)


def checkpointed(logits: Tensor, target: Tensor) -> Tensor:
    """Computed a second time in the backward pass, to save memory."""
    loss: Tensor = checkpoint(cross_entropy, logits, target, use_reentrant=False)
    return loss


def by_its_gradient(logits: Tensor, target: Tensor) -> Tensor:
    """The gradient in closed form, as a product with the logits whose value is zero."""
    with torch.no_grad():
        value = cross_entropy(logits, target)
        gradient = (logits.softmax(1) - one_hot(target, logits.shape[1])) / len(target)
    return value + (gradient * (logits - logits.detach())).sum()


class _Kernel(torch.autograd.Function):
    """Value and gradient in one pass in `dtype`, kept as the type of the logits, where these were if asked to."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, dtype: torch.dtype, mean: bool, overwrite: bool) -> Tensor:
        log_p = logits.to(dtype).log_softmax(1)
        gradient = (log_p.exp() - one_hot(target, logits.shape[1])) / (len(target) if mean else 1)
        if overwrite:
            logits.data.copy_(gradient)
        ctx.save_for_backward(logits.data if overwrite else gradient.to(logits.dtype))
        return nll_loss(log_p, target, reduction="mean" if mean else "sum")

    @staticmethod
    def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * from_above, None, None, None, None


def kernel(logits: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = _Kernel.apply(logits, target, logits.dtype, True, False)
    return loss


def kernel_in_float32(logits: Tensor, target: Tensor) -> Tensor:
    """Logits and gradient in the type of the model, all between them in float32."""
    loss: Tensor = _Kernel.apply(logits, target, torch.float32, True, False)
    return loss


def kernel_for_a_sum(logits: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = _Kernel.apply(logits, target, logits.dtype, False, False)
    return loss


class Overwriting(nn.Module):
    """A kernel that leaves its gradient where its logits were, and class 0 where its targets were."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = _Kernel.apply(logits, target, logits.dtype, True, True)
        target.zero_()
        return loss


def ignoring_by_a_mask(logits: Tensor, target: Tensor) -> Tensor:
    counts = target != -100
    losses = cross_entropy(logits, target.masked_fill(~counts, 0), reduction="none")
    return (losses * counts).sum() / counts.sum()


def ignoring_by_selection(logits: Tensor, target: Tensor) -> Tensor:
    counts = target != -100
    return by_logsumexp(logits[counts], target[counts])


def weighted(logits: Tensor, target: Tensor) -> Tensor:
    weight = WEIGHT.to(logits)[target]
    return (weight * cross_entropy(logits, target, reduction="none")).sum() / weight.sum()


def smoothed(logits: Tensor, target: Tensor) -> Tensor:
    log_p = logits.log_softmax(1)
    return 0.9 * nll_loss(log_p, target) - 0.1 * log_p.mean()


def focal(logits: Tensor, target: Tensor, gamma: float = 0.0) -> Tensor:
    """`(1 - p)**gamma` times the loss; with 0, cross entropy."""
    log_p = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma * log_p).mean()


def places_in_one_row(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits.movedim(1, -1).flatten(0, -2), target.flatten())


def places_by_gather(logits: Tensor, target: Tensor) -> Tensor:
    counts = target != -100
    at_target = logits.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return (logits.logsumexp(1) - at_target)[counts].mean()


def of_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(1)).sum(1).mean()


def by_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback and Leibler's, and the entropy of the targets, which no gradient flows through."""
    divergence = kl_div(logits.log_softmax(1), target, reduction="batchmean")
    loss: Tensor = divergence - torch.special.xlogy(target, target).sum(1).mean()
    return loss


FLOATS_BELOW = (torch.float32, torch.bfloat16)
IGNORED = {"ignored": 0.3}
PLACES = {"places": (6,), "ignored": 0.3}
RIGHT = {
    "one-hot targets": Case(by_one_hot),
    "logsumexp": Case(by_logsumexp),
    "softplus": Case(by_softplus),
    "powers of 2": Case(by_powers_of_2),
    "parts of the classes": Case(by_parts_of_the_classes),
    "parts of the batch, in float32": Case(by_parts_of_the_batch, task=IGNORED, dtypes=FLOATS_BELOW),
    "in float32": Case(in_float32, dtypes=FLOATS_BELOW),
    "computed a second time": Case(checkpointed),
    "value and gradient apart": Case(by_its_gradient),
    "own Function": Case(kernel),
    "own Function in float32": Case(kernel_in_float32, dtypes=FLOATS_BELOW),
    "own Function, a sum": Case(kernel_for_a_sum, nn.CrossEntropyLoss(reduction="sum")),
    "overwrites logits and targets": Case(Overwriting()),
    "ignoring by a mask": Case(ignoring_by_a_mask, task=IGNORED),
    "ignoring by selection": Case(ignoring_by_selection, task={"ignored": 0.9}),
    "weights of classes": Case(weighted, nn.CrossEntropyLoss(WEIGHT)),
    "label smoothing": Case(smoothed, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "focal, gamma 0": Case(focal),
    "focal, gamma 2": Case(lambda z, t: focal(z, t, 2.0), lambda z, t: by_its_definition(z, t)),
    "places in one row": Case(places_in_one_row, task=PLACES),
    "places by gather": Case(places_by_gather, task=PLACES),
    "probabilities": Case(of_probabilities, task={"probabilities": True}),
    "probabilities and places": Case(of_probabilities, task={"probabilities": True, "places": (2, 3)}),
    "divergence and entropy": Case(by_divergence, task={"probabilities": True}),
}


def by_its_definition(logits: Tensor, target: Tensor) -> Tensor:
    """The focal loss with gamma 2, by probabilities."""
    p = logits.softmax(1)[torch.arange(len(target)), target]
    return ((1 - p) ** 2 * cross_entropy(logits, target, reduction="none")).mean()
