"""Losses that are wrong on purpose, each by a mistake that people make. The verdict must call them different.

Each takes logits `[batch, classes]` and the class indices `[batch]`, and states its mistake in a line.
"""

from collections.abc import Callable
from inspect import isfunction, signature

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, nll_loss, one_hot


def softmax_twice(logits: Tensor, target: Tensor) -> Tensor:
    """Given to a loss that takes logits, probabilities are pressed through the softmax once more."""
    return cross_entropy(logits.softmax(1), target)


def sigmoid_for_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """A binary cross entropy for every class."""
    return binary_cross_entropy_with_logits(logits, one_hot(target, logits.shape[1]).to(logits))


def sum_for_mean(logits: Tensor, target: Tensor) -> Tensor:
    """The sum over the batch."""
    return cross_entropy(logits, target, reduction="sum")


def mean_over_classes_too(logits: Tensor, target: Tensor) -> Tensor:
    """`mean()` of all the terms, of which only one a row is not zero."""
    return -(one_hot(target, logits.shape[1]) * logits.log_softmax(1)).mean()


def divided_by_n_plus_1(logits: Tensor, target: Tensor) -> Tensor:
    """A divisor kept away from zero by adding 1."""
    return cross_entropy(logits, target, reduction="sum") / (len(target) + 1)


def logarithm_to_base_2(logits: Tensor, target: Tensor) -> Tensor:
    """Bits instead of nats."""
    return nll_loss(logits.softmax(1).log2(), target)


def target_shifted_by_1(logits: Tensor, target: Tensor) -> Tensor:
    """Classes counted from 1."""
    return cross_entropy(logits, (target + 1) % logits.shape[1])


def maximum_over_the_batch(logits: Tensor, target: Tensor) -> Tensor:
    """The maximum that keeps exp from overflowing, taken over the wrong dimension: it no longer cancels."""
    return cross_entropy(logits - logits.amax(0, keepdim=True), target)


def class_left_out(logits: Tensor, target: Tensor) -> Tensor:
    """The denominator misses the last class."""
    return (logits[:, :-1].logsumexp(1) - _at(logits, target)).mean()


def gradient_of_the_normaliser_lost(logits: Tensor, target: Tensor) -> Tensor:
    """The right value, but no gradient through the denominator."""
    return (logits.logsumexp(1).detach() - _at(logits, target)).mean()


def smoothing_left_on(logits: Tensor, target: Tensor) -> Tensor:
    """A label smoothing of one in a million."""
    return cross_entropy(logits, target, label_smoothing=1e-6)


def log_of_p_plus_eps(logits: Tensor, target: Tensor) -> Tensor:
    """`log(p + 1e-8)`, against the logarithm of zero."""
    return nll_loss((logits.softmax(1) + 1e-8).log(), target)


def probabilities_clamped(logits: Tensor, target: Tensor) -> Tensor:
    """Probabilities clamped at 1e-7, which also stops the gradient of what is below."""
    return nll_loss(logits.softmax(1).clamp(1e-7, 1 - 1e-7).log(), target)


def small_terms_dropped(logits: Tensor, target: Tensor) -> Tensor:
    """Terms of the denominator below exp(-12) of the largest taken for nothing, in rows that are sure of a class."""
    kept = logits >= logits.amax(1, keepdim=True) - 12
    return (logits.masked_fill(~kept, -torch.inf).logsumexp(1) - _at(logits, target)).mean()


def lower_precision(logits: Tensor, target: Tensor) -> Tensor:
    """Computed in half as many bits."""
    half = torch.float32 if logits.dtype == torch.float64 else torch.bfloat16
    return cross_entropy(logits.to(half), target).to(logits.dtype)


def temperature(logits: Tensor, target: Tensor) -> Tensor:
    """Logits divided by 1 + 1e-9."""
    return cross_entropy(logits / (1 + 1e-9), target)


def gradient_scaled(logits: Tensor, target: Tensor, by: float = 1e-10) -> Tensor:
    """The right value, and its gradient times 1 + 1e-10."""
    loss = cross_entropy(logits, target)
    return loss + by * (loss - loss.detach())


def ignored_in_the_mean(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The mean over all targets, those that are ignored too."""
    return cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum") / len(target)


def ignored_wrap_round(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Ignored targets set to -1, which indexing wraps round to the last class."""
    rows = torch.arange(len(target), device=target.device)
    return -logits.log_softmax(1)[rows, target.masked_fill(target == ignore_index, -1)].mean()


# Every function above, by its name. Those that take `ignore_index` are wrong only on data with ignored targets: any
# data has them if `ignore_index` is one of its classes.
MISTAKES: dict[str, Callable[..., Tensor]] = {
    name: value for name, value in list(globals().items()) if isfunction(value) and value.__module__ == __name__
}
MISTAKES_IN_IGNORING = [name for name, mistake in MISTAKES.items() if "ignore_index" in signature(mistake).parameters]


class Impostor(nn.Module):
    """A loss with one of the mistakes above, chosen by the name of its function.

    Targets of `ignore_index` are left out before the mistake is made, unless it is a mistake in ignoring.

    Attributes:
        mistake: the function that makes the mistake.
        ignore_index: the index of targets that do not count.
    """

    def __init__(self, mistake: str, ignore_index: int = -100) -> None:
        super().__init__()
        self.mistake = MISTAKES[mistake]
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.mistake.__name__ in MISTAKES_IN_IGNORING:
            return self.mistake(logits, target, self.ignore_index)
        counts = target != self.ignore_index
        return self.mistake(logits[counts], target[counts])


class MeanOfMeans(nn.Module):
    """PyTorch's loss, which does not tell the training of its ignored targets.

    The mistake shows where a batch is divided, into microbatches or over several processes. Each part then has its own
    mean, and the mean of these means is not the mean over the batch if one part ignores more targets than another. Most
    libraries computed it that way until 2024.
    """

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss(ignore_index=ignore_index)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.loss(logits, target)


def _at(logits: Tensor, target: Tensor) -> Tensor:
    return logits.gather(1, target[:, None])[:, 0]
