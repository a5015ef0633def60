"""Cross entropy from basic tensor operations."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xent.losses.arguments import Options, check, class_dim, ignored_targets, is_autocast, out_of_range
from xent.losses.transforms import is_traced, may_look

ExpectedSurprise = Callable[[Tensor, Tensor, int], Tensor]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The surprise at the target under the predicted probabilities; `torch.nn.functional.cross_entropy` from scratch.

    A row of logits `z` predicts class `c` with probability `p_c = exp(z_c) / sum_j exp(z_j)`, the softmax. The surprise
    at a class is `-log p_c` (Shannon, 1948): 0 where it was certain, without bound where it was thought impossible.
    For a target `t`:

        -log p_t  =  log(sum_j exp(z_j)) - z_t                    the textbook's formula
                  =  log(sum_j exp(z_j - m)) + (m - z_t)          with m = max_j z_j no exp overflows

    For a target that is a distribution `q` over the classes, the loss is the expected surprise, `-sum_c q_c log p_c`.
    Label smoothing makes one of any target, `(1 - s) q + s / C`, and `weight` multiplies each term by the weight of its
    class.

    Args:
        input: logits `[C]`, `[N, C]` or `[N, C, d1, ..., dk]`, of a floating-point type; half types are computed in
            float32.
        target: class indices (int64 or uint8) of the shape of `input` without `C`, or class probabilities of its shape.
        weight: of each class, `[C]`.
        ignore_index: the index of targets that count for nothing, inside the range of classes or not.
        reduction: `sum`; `none`; or `mean`: the sum over the sum of the targets' weights, or, if the targets are
            probabilities, over their number.
        label_smoothing: `s`, from 0 to 1.

    Returns:
        a scalar, or with reduction `none` one loss a target, in the dtype of `input` (float32 under autocast).

    Raises:
        what PyTorch raises: see xent/losses/arguments.py.
    """
    options = Options(weight, ignore_index, reduction, label_smoothing)
    check(input, target, options)
    return batch_loss(expected_surprise, input, target, options)


def surprise(logits: Tensor, index: Tensor, dim: int) -> Tensor:
    """`-log p_t = log(1 + o)` of every row, `o = (1 - p_t) / p_t` being the odds against its target.

        o  =  sum_{j != t} exp(z_j - z_t)

    It is exact for sure rows too: where `o` is tiny, log1p keeps its digits, and the derivative with respect to `z_t`
    is `-o / (1 + o)`, which is `p_t - 1` and subtracts nothing.

    Args:
        logits: with the classes along `dim`.
        index: the target of each row, of the shape of `logits` but for a 1 along `dim`.
    """
    at_target = logits.gather(dim, index)
    if may_look(logits):
        odds = others(logits - at_target, index, dim)
        if (odds < 1e17).all():  # neither they nor their square, in a second derivative, overflow in float32
            return torch.log1p(odds)
    return surprise_far_behind(logits, at_target, index, dim)


def surprise_far_behind(logits: Tensor, at_target: Tensor, index: Tensor, dim: int) -> Tensor:
    """`surprise`, where a target may be so far behind that the exp overflows.

    From 40 on `log(1 + o)` is `log o` to the last bit of float64, and `m = max_j z_j` comes out of it:

        log o  =  log(sum_{j != t} exp(z_j - m)) + (m - z_t)
    """
    largest = logits.detach().amax(dim, keepdim=True)
    far = at_target < largest - 40
    if is_traced():
        at_target = logits.where(is_class(index, logits, dim), 0.0).sum(dim, keepdim=True)
    odds = others(logits - torch.where(far, largest, at_target), index, dim)
    return torch.log1p(odds - far.squeeze(dim).to(odds.dtype)) + torch.where(far, largest - at_target, 0.0).squeeze(dim)


def others(ahead: Tensor, index: Tensor, dim: int) -> Tensor:
    """`sum_{j != t} exp(a_j)` of every row. `ahead` is written over."""
    if is_traced():
        return ahead.masked_fill(is_class(index, ahead, dim), -torch.inf).exp().sum(dim)
    nothing = torch.full_like(index, -torch.inf, dtype=ahead.dtype)  # exp(-inf) = 0, and so is its gradient
    ahead.detach().scatter_add_(dim, index, nothing)
    return ahead.exp_().sum(dim)


def is_class(index: Tensor, logits: Tensor, dim: int) -> Tensor:
    """Where in the logits the class of each row is: compiled into the pass that asks, as gather and scatter are not."""
    classes = torch.arange(logits.shape[dim], device=logits.device)
    return index == classes.view(-1, *[1] * (logits.ndim - dim - 1))


def expected_surprise(logits: Tensor, distribution: Tensor, dim: int) -> Tensor:
    """`-sum_c q_c log p_c` of every row, `q` being the `distribution`, of the shape of `logits`."""
    return -(distribution * log_probabilities(logits, dim)).sum(dim)


def log_probabilities(logits: Tensor, dim: int) -> Tensor:
    """`log p_c = (z_c - m) - log(sum_j exp(z_j - m))`."""
    shifted = logits - logits.detach().amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def batch_loss(expected_surprise: ExpectedSurprise, input: Tensor, target: Tensor, options: Options) -> Tensor:
    """What surrounds the loss of a row: precision, smoothing, weights, ignored targets and the reduction.

    Args:
        expected_surprise: the function below of that name, or one of the same values.
    """
    dim = class_dim(input)
    logits = widened(input)
    dtype = logits.dtype if logits.dtype == input.dtype or is_autocast(input) else input.dtype
    total: Tensor | None = None
    if target.is_floating_point():
        weight = options.weight
        dtype = torch.promote_types(dtype, target.dtype if weight is None else torch.result_type(target, weight))
        losses = expected_surprise(logits, smoothed_and_weighted(target.to(logits.dtype), options, dim), dim)
    else:
        losses, total = index_losses(expected_surprise, logits, as_index(target, input), options)
    if options.reduction == "sum":
        losses = losses.sum()
    elif options.reduction == "mean":
        losses = losses.mean() if total is None else losses.sum() / total
    return losses if losses.dtype == dtype else losses.to(dtype)


def index_losses(
    expected_surprise: ExpectedSurprise, logits: Tensor, target: Tensor, options: Options
) -> tuple[Tensor, Tensor | None]:
    """The losses for class indices, and the sum of the weights of those that count; None if all do, and alike."""
    dim, weight = class_dim(logits), options.weight
    ignored = ignored_targets(target, options.ignore_index)
    index = target if ignored is None else target.masked_fill(ignored, 0)  # any class will do, its loss is not used
    try:
        if options.label_smoothing > 0:
            one_hot = torch.zeros_like(logits).scatter(dim, index.unsqueeze(dim), 1)
            losses = expected_surprise(logits, smoothed_and_weighted(one_hot, options, dim), dim)
        else:
            losses = surprise(logits, index.unsqueeze(dim), dim)
    except RuntimeError as error:
        raise out_of_range(target, options.ignore_index, logits.shape[dim]) or error from None
    if weight is None and ignored is None:
        return losses, None
    weights = torch.ones_like(losses)
    if weight is not None:
        weights = weight.to(torch.promote_types(weight.dtype, logits.dtype))[index]
        losses = losses if options.label_smoothing > 0 else losses * weights
    if ignored is None:
        return losses, weights.sum()
    return losses.masked_fill(ignored, 0), weights.masked_fill(ignored, 0).sum()


def widened(input: Tensor) -> Tensor:
    """Half types as float32."""
    return input.float() if input.dtype.itemsize < 4 else input


def as_index(target: Tensor, input: Tensor) -> Tensor:
    """Class indices as int64, of one row without a dimension."""
    return target.long() if input.ndim > 1 else target.long().reshape(())


def smoothed_and_weighted(distribution: Tensor, options: Options, dim: int) -> Tensor:
    """`(1 - s) q_c + s / C`, times the weight of class `c`."""
    weight, smoothing = options.weight, options.label_smoothing
    if smoothing > 0:
        distribution = distribution * (1 - smoothing) + smoothing / distribution.shape[dim]
    return distribution if weight is None else distribution * weight.view(-1, *[1] * (distribution.ndim - dim - 1))


class CrossEntropyLossFromScratch(nn.CrossEntropyLoss):
    """`cross_entropy` as a module: `torch.nn.CrossEntropyLoss` in all but the computation."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)
