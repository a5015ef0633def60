"""Cross entropy as others write it, with a mistake in it: what must never pass. `WRONG` has all of them."""

from functools import partial

import torch
from torch import Tensor, bfloat16, float16, float32, float64, nn
from torch.nn.functional import cross_entropy, dropout, nll_loss, one_hot

from tests.helpers.right_losses import (
    IGNORED,
    PLACES,
    PROBABILITIES,
    WEIGHT,
    Case,
    Kernel,
    at_target,
    by_its_gradient,
    by_one_hot,
    by_parts,
    focal,
)


def mean_of_parts(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over parts of a batch of their means, of which the last is smaller."""
    return torch.stack([cross_entropy(z, t) for z, t in zip(logits.split(8), target.split(8))]).mean()


def gradient_of(logits: Tensor, target: Tensor) -> Tensor:
    """The right one, of the mean."""
    return (logits.detach().softmax(1) - one_hot(target, logits.shape[1])) / len(target)


def deaf_to_what_comes_from_above(logits: Tensor, target: Tensor) -> Tensor:
    return Kernel.apply(logits, cross_entropy(logits, target), gradient_of(logits, target), True)


def value_of_overwritten_logits(logits: Tensor, target: Tensor) -> Tensor:
    """The right gradient, and a value made of what was left where the logits were."""
    loss = cross_entropy(logits, target)
    return loss - loss.detach() + cross_entropy(logits.detach().softmax(1), target)


class RunningMean(nn.Module):  # of all values so far, with the right gradient
    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(logits, target)
        self.values.append(loss.item())
        return loss - loss.detach() + sum(self.values) / len(self.values)


def over_the_batch_size(logits: Tensor, target: Tensor) -> Tensor:
    """Over all rows, though some targets are ignored, or though each row has several."""
    return cross_entropy(logits, target, reduction="sum") / len(target)


def ignored_as_rows_of_zeros(logits: Tensor, target: Tensor) -> Tensor:
    counts = target != -100
    return cross_entropy(logits * counts[:, None], target.clamp(min=0), reduction="sum") / counts.sum()


def smoothed_over_the_others(logits: Tensor, target: Tensor) -> Tensor:
    """A tenth over the other classes, where PyTorch's goes over all."""
    log_p = logits.log_softmax(1)
    right = at_target(log_p, target)
    return -(0.9 * right + 0.1 / (logits.shape[1] - 1) * (log_p.sum(1) - right)).mean()


def mean_of_rows(logits: Tensor, target: Tensor) -> Tensor:
    counts = (target != -100).sum(1)
    losses = cross_entropy(logits, target, reduction="none").sum(1) / counts.clamp(min=1)
    return losses[counts > 0].mean()


SUM, WEIGHTED = nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(WEIGHT)
THREE_PLACES = PROBABILITIES | {"places": (3,)}
fine = partial(Case, dtypes=(float64, float32))  # where a mistake shows that is smaller than what bfloat16 rounds away
as_written = partial(Case, dtypes=(float32,))  # the right function, in half types
WRONG = {
    "probabilities clipped": fine(lambda z, t: nll_loss(z.softmax(1).clip(1e-7, 1 - 1e-7).log(), t), tested_in=float32),
    "parts of the classes, never rescaled": Case(lambda z, t: by_parts(z, t, rescaled=False)),
    "last part of the classes lost": Case(lambda z, t: (z[:, :8].logsumexp(1) - at_target(z, t)).mean()),
    "mean of uneven parts": Case(mean_of_parts, tested_in=bfloat16),
    "gradient kept in bfloat16": as_written(
        lambda z, t: Kernel.apply(z, cross_entropy(z, t), gradient_of(z, t).bfloat16().to(z)), tested_in=float32
    ),
    "gradient of the mean for a sum": Case(lambda z, t: Kernel.apply(z, SUM(z, t), gradient_of(z, t)), SUM),
    "deaf to the gradient from above": Case(deaf_to_what_comes_from_above, tested_in=float16),
    "value of overwritten logits": Case(value_of_overwritten_logits),
    "in float16": as_written(lambda z, t: cross_entropy(z.half(), t).to(z.dtype), tested_in=float32),
    "logsumexp squared left on": fine(lambda z, t: cross_entropy(z, t) + 1e-4 * z.logsumexp(1).square().mean()),
    "soft cap left on": fine(lambda z, t: cross_entropy(30 * (z / 30).tanh(), t)),
    "dropout left on": fine(lambda z, t: cross_entropy(dropout(z, 0.001), t)),
    "a running mean": Case(RunningMean(), tested_in=bfloat16),
    "focal, gamma 0.001": fine(lambda z, t: focal(z, t, 1e-3)),
    "ignored targets in the mean": Case(over_the_batch_size, task=IGNORED, tested_in=float16),
    "two thirds ignored, in the mean": Case(over_the_batch_size, task={"ignored": 2 / 3}),
    "ignored targets as rows of zeros": Case(ignored_as_rows_of_zeros, task=IGNORED),
    "class 0 for padding": Case(lambda z, t: cross_entropy(z[t > 0], t[t > 0]), task=IGNORED, tested_in=float16),
    "weights not in the mean": Case(lambda z, t: cross_entropy(z, t, WEIGHT.to(z), reduction="sum") / len(t), WEIGHTED),
    "weights on logits": Case(lambda z, t: cross_entropy(z * WEIGHT.to(z), t), WEIGHTED),
    "smoothing over the others": fine(smoothed_over_the_others, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "places by view": Case(lambda z, t: cross_entropy(z.reshape(-1, z.shape[1]), t.flatten()), task=PLACES),
    "mean of the rows' means": Case(mean_of_rows, task=PLACES),
    "sum over places": Case(over_the_batch_size, task=PLACES),
    "likeliest class": Case(lambda z, t: cross_entropy(z, t.argmax(1)), task=PROBABILITIES),
    "mean over the classes too": Case(lambda z, t: -(t * z.log_softmax(1)).mean(), task=PROBABILITIES),
    "softmax over places": Case(lambda z, t: -(t * z.log_softmax(-1)).sum(1).mean(), task=THREE_PLACES),
    "in bfloat16": as_written(lambda z, t: cross_entropy(z.bfloat16(), t)),
    # Which train as the right one does, but are NaN where a class is masked by -inf.
    "one-hot targets": Case(by_one_hot),
    "value and gradient apart": Case(by_its_gradient),
}
