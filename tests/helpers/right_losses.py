"""Cross entropy as others write it, and rightly: what must never be called different. `RIGHT` has all of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, bfloat16, float16, float32, float64, nn
from torch.nn.functional import cross_entropy, kl_div, nll_loss, one_hot, softplus
from torch.utils.checkpoint import checkpoint

WEIGHT = torch.tensor([1.0, 10.0, 0.5, *[1.0] * 7], dtype=float64)
EVERY = (float64, float32, bfloat16)
IGNORED = {"ignored": 0.3}
PLACES = {"places": (6,), "ignored": 0.3}
PROBABILITIES = {"probabilities": True}


@dataclass(frozen=True)
class Case:
    """A loss, and how `assert_same_learning` judges it."""

    loss: Callable[[Tensor, Tensor], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor] = field(default_factory=nn.CrossEntropyLoss)
    task: dict[str, Any] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = EVERY  # of the whole study, benchmarks/verdict.py
    tested_in: torch.dtype = float64  # in tests/test_testing.py


def at_target(logits: Tensor, target: Tensor) -> Tensor:
    return logits.gather(1, target[:, None])[:, 0]


def by_one_hot(logits: Tensor, target: Tensor) -> Tensor:
    return -(one_hot(target, logits.shape[1]) * logits.log_softmax(1)).sum(1).mean()


def by_logsumexp(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.logsumexp(1) - at_target(logits, target)).mean()


def by_softplus(logits: Tensor, target: Tensor) -> Tensor:
    """The softplus of how far the other classes are ahead of the target."""
    others = logits.scatter(1, target[:, None], -torch.inf).logsumexp(1)
    return softplus(others - at_target(logits, target), threshold=40).mean()


def by_powers_of_2(logits: Tensor, target: Tensor) -> Tensor:
    """As kernels do, whose exp2 is faster than exp."""
    bits = (logits - logits.amax(1, keepdim=True)) / math.log(2)
    return nll_loss((bits - bits.exp2().sum(1, keepdim=True).log2()) * math.log(2), target)


def by_parts(logits: Tensor, target: Tensor, rescaled: bool = True) -> Tensor:
    """A running largest logit and sum, as in kernels that never hold all classes at once."""
    largest = logits.new_full((len(logits),), -torch.inf)
    total = torch.zeros_like(largest)
    for part in logits.split(4, dim=1):
        new = torch.maximum(largest, part.amax(1))
        total = total * ((largest - new).exp() if rescaled else 1) + (part - new[:, None]).exp().sum(1)
        largest = new
    return (total.log() + largest - at_target(logits, target)).mean()


def by_parts_of_the_batch(logits: Tensor, target: Tensor) -> Tensor:
    parts = zip(logits.split(8), target.split(8))
    total = torch.stack([cross_entropy(z.float(), t, reduction="sum") for z, t in parts]).sum()
    return total / (target != -100).sum()


def by_its_gradient(logits: Tensor, target: Tensor) -> Tensor:
    """The gradient in closed form, as a product with the logits whose value is zero."""
    gradient = (logits.detach().softmax(1) - one_hot(target, logits.shape[1])) / len(target)
    return cross_entropy(logits, target).detach() + (gradient * (logits - logits.detach())).sum()


class Kernel(torch.autograd.Function):
    """The value that it gets; backward, the gradient that it gets times that from above, unless it is deaf to it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor, deaf: bool = False) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.deaf = deaf
        return value.clone()

    @staticmethod
    def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * (1 if ctx.deaf else from_above), None, None, None


def kernel(
    logits: Tensor, target: Tensor, dtype: torch.dtype | None = None, mean: bool = True, overwrite: bool = False
) -> Tensor:
    """Value and gradient in one pass in `dtype`; the gradient is kept as the logits' type, or where these were."""
    log_p = logits.detach().to(dtype or logits.dtype).log_softmax(1)
    gradient = (log_p.exp() - one_hot(target, logits.shape[1])) / (len(target) if mean else 1)
    kept = logits.data.copy_(gradient) if overwrite else gradient.to(logits.dtype)
    return Kernel.apply(logits, nll_loss(log_p, target, reduction="mean" if mean else "sum"), kept)


def overwriting(logits: Tensor, target: Tensor) -> Tensor:
    """A kernel that leaves its gradient where its logits were, and class 0 where its targets were."""
    loss = kernel(logits, target, overwrite=True)
    target.zero_()
    return loss


def ignoring_by_a_mask(logits: Tensor, target: Tensor) -> Tensor:
    losses = cross_entropy(logits, target.clamp(min=0), reduction="none")
    return (losses * (target != -100)).sum() / (target != -100).sum()


def weighted(logits: Tensor, target: Tensor) -> Tensor:
    weight = WEIGHT.to(logits)[target]
    return (weight * cross_entropy(logits, target, reduction="none")).sum() / weight.sum()


def smoothed(logits: Tensor, target: Tensor) -> Tensor:
    return 0.9 * cross_entropy(logits, target) - 0.1 * logits.log_softmax(1).mean()


def focal(logits: Tensor, target: Tensor, gamma: float = 0.0) -> Tensor:
    """`(1 - p)**gamma` times the loss; with 0, cross entropy."""
    log_p = at_target(logits.log_softmax(1), target)
    return -((1 - log_p.exp()) ** gamma * log_p).mean()


def focal_by_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    return ((1 - at_target(logits.softmax(1), target)) ** 2 * cross_entropy(logits, target, reduction="none")).mean()


def of_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(1)).sum(1).mean()


def by_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback and Leibler's, and the entropy of the targets, which no gradient flows through."""
    entropy = -torch.special.xlogy(target, target).sum(1).mean()
    return kl_div(logits.log_softmax(1), target, reduction="batchmean") + entropy


RIGHT = {
    "logsumexp": Case(by_logsumexp),
    "softplus": Case(by_softplus),
    "powers of 2": Case(by_powers_of_2, tested_in=bfloat16),
    "parts of the classes": Case(by_parts, tested_in=float16),
    "parts of the batch, in float32": Case(by_parts_of_the_batch, task=IGNORED, tested_in=bfloat16),
    "in float32": Case(lambda z, t: cross_entropy(z.float(), t)),
    "computed a second time": Case(lambda z, t: checkpoint(cross_entropy, z, t, use_reentrant=False)),
    "own Function": Case(kernel, tested_in=float32),
    "own Function in float32": Case(lambda z, t: kernel(z, t, float32)),
    "own Function, a sum": Case(lambda z, t: kernel(z, t, mean=False), nn.CrossEntropyLoss(reduction="sum")),
    "overwrites logits and targets": Case(overwriting),
    "ignoring by a mask": Case(ignoring_by_a_mask, task=IGNORED),
    "ignoring by selection": Case(lambda z, t: by_logsumexp(z[t != -100], t[t != -100]), task={"ignored": 0.9}),
    "weights of classes": Case(weighted, nn.CrossEntropyLoss(WEIGHT)),
    "label smoothing": Case(smoothed, nn.CrossEntropyLoss(label_smoothing=0.1), tested_in=float32),
    "focal, gamma 0": Case(focal),
    "focal, gamma 2": Case(lambda z, t: focal(z, t, 2.0), focal_by_probabilities),
    "places in one row": Case(lambda z, t: cross_entropy(z.movedim(1, -1).flatten(0, -2), t.flatten()), task=PLACES),
    "places by gather": Case(lambda z, t: (z.logsumexp(1) - at_target(z, t.clamp(0)))[t != -100].mean(), task=PLACES),
    "probabilities": Case(of_probabilities, task=PROBABILITIES),
    "probabilities and places": Case(of_probabilities, task=PROBABILITIES | {"places": (2, 3)}),
    "divergence and entropy": Case(by_divergence, task=PROBABILITIES),
}
