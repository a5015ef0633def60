"""Cross entropy as others write it, with a mistake in it: what must never pass. `WRONG` has each with its task."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, nll_loss, one_hot

from tests.helpers.right_losses import IGNORED, PLACES, WEIGHT, Case, focal

FINE = (torch.float64, torch.float32)  # where a mistake shows that is smaller than what bfloat16 rounds away


def probabilities_clipped(logits: Tensor, target: Tensor) -> Tensor:
    """As frameworks do that keep log away from 0."""
    return nll_loss(logits.softmax(1).clip(1e-7, 1 - 1e-7).log(), target)


def never_rescaled(logits: Tensor, target: Tensor) -> Tensor:
    """A running largest logit, without rescaling the sum when it grows."""
    largest = logits.new_full((len(logits),), -torch.inf)
    total = torch.zeros_like(largest)
    for part in logits.split(4, dim=1):
        largest = torch.maximum(largest, part.amax(1))
        total = total + (part - largest[:, None]).exp().sum(1)
    return (total.log() + largest - logits.gather(1, target[:, None])[:, 0]).mean()


def last_part_lost(logits: Tensor, target: Tensor) -> Tensor:
    """Whole parts of four classes alone."""
    whole = logits[:, : logits.shape[1] // 4 * 4]
    return (whole.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]).mean()


def mean_of_parts(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over parts of a batch of their means, of which the last is smaller."""
    return torch.stack([cross_entropy(z, t) for z, t in zip(logits.split(8), target.split(8))]).mean()


class _Kernel(torch.autograd.Function):
    """The gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, kept_as: torch.dtype, mean_in_backward: bool) -> Tensor:
        gradient = logits.softmax(1) - one_hot(target, logits.shape[1])
        ctx.save_for_backward((gradient / (len(target) if mean_in_backward else 1)).to(kept_as).to(logits.dtype))
        return cross_entropy(logits, target, reduction="mean" if kept_as == torch.bfloat16 else "sum")

    @staticmethod
    def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * from_above, None, None, None


def gradient_kept_in_bfloat16(logits: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = _Kernel.apply(logits, target, torch.bfloat16, True)
    return loss


def mean_gradient_of_a_sum(logits: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = _Kernel.apply(logits, target, logits.dtype, True)
    return loss


class _Deaf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward((logits.softmax(1) - one_hot(target, logits.shape[1])) / len(target))
        return cross_entropy(logits, target)

    @staticmethod
    def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0], None


def deaf_to_what_comes_from_above(logits: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = _Deaf.apply(logits, target)
    return loss


def read_after_overwriting(logits: Tensor, target: Tensor) -> Tensor:
    """The right gradient, and a value made of what was left where the logits were."""
    loss = cross_entropy(logits, target)
    left = logits.detach().softmax(1)
    return loss - loss.detach() + cross_entropy(left, target)


def in_half(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits.half(), target).to(logits.dtype)


def largest_logits_squared(logits: Tensor, target: Tensor) -> Tensor:
    """The term that keeps the normaliser near 1 left on."""
    return cross_entropy(logits, target) + 1e-4 * logits.logsumexp(1).square().mean()


def capped(logits: Tensor, target: Tensor) -> Tensor:
    """Soft capping left on."""
    return cross_entropy(30 * (logits / 30).tanh(), target)


def sometimes_dropped(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(dropout(logits, 0.001), target)


class RunningMean(nn.Module):
    """The right gradient, and the mean of all values so far."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(logits, target)
        self.values.append(loss.item())
        return loss - loss.detach() + sum(self.values) / len(self.values)


def ignored_in_the_mean(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits, target, reduction="sum") / len(target)


def ignored_as_rows_of_zeros(logits: Tensor, target: Tensor) -> Tensor:
    counts = target != -100
    losses = cross_entropy(logits * counts[:, None], target.masked_fill(~counts, 0), reduction="none")
    return losses.sum() / counts.sum()


def class_0_for_padding(logits: Tensor, target: Tensor) -> Tensor:
    counts = target > 0
    return cross_entropy(logits[counts], target[counts])


def weights_out_of_the_mean(logits: Tensor, target: Tensor) -> Tensor:
    weight = WEIGHT.to(logits)[target]
    return (weight * cross_entropy(logits, target, reduction="none")).mean()


def weights_on_logits(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits * WEIGHT.to(logits), target)


def smoothed_over_the_others(logits: Tensor, target: Tensor) -> Tensor:
    """A tenth over the other classes, where PyTorch's goes over all."""
    others, log_p = logits.shape[1] - 1, logits.log_softmax(1)
    at_target = log_p.gather(1, target[:, None])[:, 0]
    return -(0.9 * at_target + 0.1 / others * (log_p.sum(1) - at_target)).mean()


def places_by_view(logits: Tensor, target: Tensor) -> Tensor:
    """Classes and places in one another's order."""
    return cross_entropy(logits.reshape(-1, logits.shape[1]), target.flatten())


def mean_of_rows(logits: Tensor, target: Tensor) -> Tensor:
    counts = (target != -100).sum(1)
    losses = cross_entropy(logits, target, reduction="none").sum(1) / counts.clamp(min=1)
    return losses[counts > 0].mean()


def sum_over_places(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits, target, reduction="sum") / len(target)


def likeliest_class(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits, target.argmax(1))


def mean_over_the_classes_too(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(1)).mean()


def softmax_over_places(logits: Tensor, target: Tensor) -> Tensor:
    """`dim=-1` for the classes, which are not last."""
    return -(target * logits.log_softmax(-1)).sum(1).mean()


PROBABILITIES = {"probabilities": True}
WRONG = {
    "probabilities clipped": Case(probabilities_clipped, dtypes=FINE),
    "parts of the classes, never rescaled": Case(never_rescaled),
    "last part of the classes lost": Case(last_part_lost),
    "mean of uneven parts": Case(mean_of_parts),
    "gradient kept in bfloat16": Case(gradient_kept_in_bfloat16, dtypes=FINE),
    "gradient of the mean for a sum": Case(mean_gradient_of_a_sum, nn.CrossEntropyLoss(reduction="sum")),
    "deaf to the gradient from above": Case(deaf_to_what_comes_from_above),
    "value of overwritten logits": Case(read_after_overwriting),
    "in float16": Case(in_half, dtypes=FINE),
    "logsumexp squared left on": Case(largest_logits_squared, dtypes=FINE),
    "soft cap left on": Case(capped, dtypes=FINE),
    "dropout left on": Case(sometimes_dropped, dtypes=FINE),
    "a running mean": Case(RunningMean()),
    "focal, gamma 0.001": Case(lambda z, t: focal(z, t, 1e-3), dtypes=FINE),
    "ignored targets in the mean": Case(ignored_in_the_mean, task=IGNORED),
    "two thirds ignored, in the mean": Case(ignored_in_the_mean, task={"ignored": 2 / 3}),
    "ignored targets as rows of zeros": Case(ignored_as_rows_of_zeros, task=IGNORED),
    "class 0 for padding": Case(class_0_for_padding, task=IGNORED),
    "weights not in the mean": Case(weights_out_of_the_mean, nn.CrossEntropyLoss(WEIGHT)),
    "weights on logits": Case(weights_on_logits, nn.CrossEntropyLoss(WEIGHT)),
    "smoothing over the others": Case(smoothed_over_the_others, nn.CrossEntropyLoss(label_smoothing=0.1), dtypes=FINE),
    "places by view": Case(places_by_view, task=PLACES),
    "mean of the rows' means": Case(mean_of_rows, task=PLACES),
    "sum over places": Case(sum_over_places, task=PLACES),
    "likeliest class": Case(likeliest_class, task=PROBABILITIES),
    "mean over the classes too": Case(mean_over_the_classes_too, task=PROBABILITIES),
    "softmax over places": Case(softmax_over_places, task=PROBABILITIES | {"places": (3,)}),
    "float64 in float32": Case(lambda z, t: cross_entropy(z.float(), t), dtypes=(torch.float64,)),
    "in bfloat16": Case(lambda z, t: cross_entropy(z.bfloat16(), t), dtypes=FINE),
}
