"""Cross entropy from basic tensor operations."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from xent.losses.arguments import check_arguments, class_dim, is_autocast

torch.fx.wrap("cross_entropy")  # symbolic tracing sees one call, as with PyTorch's


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.cross_entropy` from scratch: the surprise at the target under the predicted probabilities.

    A row of logits `z` predicts class `c` with probability `p_c = exp(z_c) / sum_j exp(z_j)`, the softmax. The surprise
    at a class is `-log p_c` (Shannon, 1948): 0 if the class was certain, without bound if it was thought impossible.
    For a target `t`:

        -log p_t  =  log(sum_j exp(z_j)) - z_t                    the textbook's formula
                  =  log(sum_j exp(z_j - m)) + (m - z_t)          with m = max_j z_j no exp overflows

    If the target is a distribution `q` over the `C` classes, the loss is the expected surprise, `-sum_c q_c log p_c`.
    Label smoothing turns any target into a distribution, `(1 - s) q + s / C`. `weight` multiplies each term by the
    weight of its class.

    Args:
        input: logits `[C]`, `[N, C]` or `[N, C, d1, ..., dk]`, of a floating-point type. Half types are computed in
            float32.
        target: class indices (int64 or uint8) of the shape of `input` without `C`, or class probabilities of the shape
            of `input`.
        weight: the weight of each class, `[C]`.
        ignore_index: targets of this index do not count. It may lie outside the range of classes.
        reduction: `sum`, `none` or `mean`. The mean is the sum over the sum of the targets' weights, or, if the targets
            are probabilities, over their number.
        label_smoothing: `s`, from 0 to 1.

    Returns:
        a scalar, or with reduction `none` one loss per target, in the dtype of `input` (float32 under autocast).

    Raises:
        Exception: what PyTorch raises; see xent/losses/arguments.py. `torch.jit.script` refuses this function, though
            it takes PyTorch's: use torch.compile or torch.export.
    """
    ignore_index, reduction = check_arguments(input, target, weight, ignore_index, reduction, label_smoothing)
    try:
        return batch_loss(log_probabilities, input, target, weight, ignore_index, reduction, label_smoothing)
    except (IndexError, RuntimeError):  # a class out of range
        functional.cross_entropy(input, target, weight, ignore_index=ignore_index)  # raises PyTorch's error
        raise


def surprise(logits: Tensor, index: Tensor, dim: int) -> Tensor:
    """The surprise of every row, `-log p_t = log(1 + o)`. `o = (1 - p_t) / p_t` are the odds against the target.

        o  =  sum_{j != t} exp(z_j - z_t)

    This is exact for confident rows too. Where `o` is tiny, log1p keeps its digits. The derivative with respect to
    `z_t` is `-o / (1 + o)`, which equals `p_t - 1` and subtracts nothing.

    If the target is far below the largest logit, the exp would overflow. From 40 below on, `log(1 + o)` equals `log o`
    to the last bit of float64, and `m = max_j z_j` comes out of the sum:

        log o  =  log(sum_{j != t} exp(z_j - m)) + (m - z_t)

    Args:
        logits: with the classes along `dim`.
        index: the target of each row, of the shape of `logits` with size 1 along `dim`.

    Returns:
        the surprise of each row, of the shape of `index`.
    """
    at_target = logits.gather(dim, index)
    largest = logits.detach().amax(dim, keepdim=True)
    far = at_target < largest - 40
    terms = (logits - torch.where(far, largest, at_target)).exp()
    others = terms.scatter(dim, index, -far.to(terms.dtype)).sum(dim, keepdim=True)  # minus the 1 of log1p, where far
    return torch.log1p(others) + far * (largest - at_target)


def log_probabilities(logits: Tensor, dim: int) -> Tensor:
    """Log-softmax: `log p_c = (z_c - m) - log(sum_j exp(z_j - m))`, with `m = max_j z_j`."""
    shifted = logits - logits.detach().amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def batch_loss(
    log_probabilities: Callable[[Tensor, int], Tensor],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> Tensor:
    """The loss of a batch from its rows: precision, weights, smoothing, ignored targets and the reduction.

    Args:
        log_probabilities: the function of that name, or another that returns the same values.
        input, target, weight, ignore_index, reduction, smoothing: see `cross_entropy`.
    """
    dim, logits = class_dim(input), widened(input)
    if target.is_floating_point():
        distribution = target.to(logits.dtype)
        if smoothing > 0:
            distribution = distribution * (1 - smoothing) + smoothing / input.shape[dim]
        losses = -(weighted(distribution, weight, dim) * log_probabilities(logits, dim)).sum(dim, keepdim=True)
        total: Tensor | int = losses.numel()
    else:
        index, ignored, weights = class_indices(input, target, weight, ignore_index)
        log_p = log_probabilities(logits, dim) if smoothing > 0 else None
        losses = surprise(logits, index, dim) if log_p is None else -log_p.gather(dim, index)
        losses = losses if weights is None else losses * weights
        if log_p is not None:
            losses = (1 - smoothing) * losses - smoothing * weighted(log_p, weight, dim).mean(dim, keepdim=True)
        losses = losses.masked_fill(ignored, 0)
        total = ignored.logical_not().sum(dtype=losses.dtype) if weights is None else weights.sum()
    losses = losses.squeeze(dim) if reduction == "none" else losses.sum()
    losses = losses / total if reduction == "mean" else losses
    return losses.to(result_type(input, target, weight))


def widened(input: Tensor) -> Tensor:
    """The input, in float32 if its type is a half type."""
    return input.float() if input.dtype.itemsize < 4 else input


def class_indices(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Look up the class, the ignored mask and the weight of every target.

    Returns:
        three tensors of the shape of `input`, with size 1 for the classes: the class, or any valid class where the
        target is ignored; whether it is ignored; its weight, 0 where it is ignored. None instead of weights if classes
        have none.
    """
    target = (target if input.ndim > 1 else target.reshape(())).long().unsqueeze(class_dim(input))
    ignored = target == ignore_index
    index = target.masked_fill(ignored, 0)
    weights = None if weight is None else weight.to(widened(input).dtype)[index].masked_fill(ignored, 0)
    return index, ignored, weights


def weighted(of_classes: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    """Multiply a value per class, along `dim`, by the weight of the class."""
    return of_classes if weight is None else of_classes * weight.view(-1, *[1] * (of_classes.ndim - dim - 1))


def result_type(input: Tensor, target: Tensor, weight: Tensor | None) -> torch.dtype:
    """The dtype of the loss: the dtype of the logits, promoted with those of probabilities and their weights."""
    dtype = widened(input).dtype if is_autocast(input) else input.dtype
    for tensor in (target, weight) if target.is_floating_point() else ():
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


class CrossEntropyLossFromScratch(nn.CrossEntropyLoss):
    """`cross_entropy` as a module: `torch.nn.CrossEntropyLoss` in all but the computation."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)
