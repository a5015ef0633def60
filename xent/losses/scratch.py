"""Cross entropy from basic tensor operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from xent.losses.arguments import Options, checked, class_dim, ignored_targets, is_autocast, out_of_range
from xent.losses.transforms import is_split, is_traced, is_transformed, may_look

LogProbabilities = Callable[[Tensor, int], Tensor]


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
    if has_torch_function_variadic(input, target, weight):  # torch.fx, say
        given = ignore_index, reduction, label_smoothing
        return handle_torch_function(cross_entropy, (input, target, weight), input, target, weight, *given)
    options = checked(input, target, Options(weight, ignore_index, reduction, label_smoothing))
    return batch_loss(log_probabilities, input, target, options)


def surprise(logits: Tensor, index: Tensor, dim: int) -> Tensor:
    """`-log p_t = log(1 + o)` of every row, `o = (1 - p_t) / p_t` being the odds against its target.

        o  =  sum_{j != t} exp(z_j - z_t)

    It is exact for sure rows too: where `o` is tiny, log1p keeps its digits, and the derivative with respect to `z_t`
    is `-o / (1 + o)`, which is `p_t - 1` and subtracts nothing.

    Args:
        logits: with the classes along `dim`.
        index: the target of each row, of the shape of `logits` but for a 1 along `dim`.
    """
    if may_look(logits):
        odds = others(logits - at(logits, index, dim), index, dim)
        if (odds < 1e17).all():  # neither they nor their square, in a second derivative, overflow in float32
            return torch.log1p(odds)
    return surprise_far_behind(logits, index, dim)


def surprise_far_behind(logits: Tensor, index: Tensor, dim: int) -> Tensor:
    """`surprise`, where a target may be so far behind that the exp overflows.

    From 40 on `log(1 + o)` is `log o` to the last bit of float64, and `m = max_j z_j` comes out of it:

        log o  =  log(sum_{j != t} exp(z_j - m)) + (m - z_t)
    """
    largest = logits.detach().amax(dim, keepdim=True)
    far = logits.detach().gather(dim, index) < largest - 40
    at_target = at(logits, index, dim)
    odds = others(logits - torch.where(far, largest, at_target), index, dim)
    return torch.log1p(odds - far.squeeze(dim).to(odds.dtype)) + torch.where(far, largest - at_target, 0.0).squeeze(dim)


def at(logits: Tensor, index: Tensor, dim: int) -> Tensor:
    """The logit of each row at its index, of the shape of `index`."""
    if is_traced():
        return logits.where(is_class(index, logits, dim), 0.0).sum(dim, keepdim=True)
    if is_transformed(logits):
        return logits.gather(dim, index)
    found: Tensor = _Gather.apply(logits, index, dim)
    return found


class _Gather(torch.autograd.Function):
    """`gather`, which keeps no hold of the logits: they may be written over before the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, dim: int) -> Tensor:
        ctx.shape, ctx.dim = logits.shape, dim
        ctx.save_for_backward(index)
        return logits.gather(dim, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).scatter_add_(ctx.dim, index, grad), None, None


def others(ahead: Tensor, index: Tensor, dim: int) -> Tensor:
    """`sum_{j != t} exp(a_j)` of every row. `ahead` is written over."""
    if is_traced():
        return ahead.masked_fill(is_class(index, ahead, dim), -torch.inf).exp().sum(dim)
    if is_split(ahead):  # along the classes, say, so not in place
        return ahead.scatter(dim, index, -torch.inf).exp().sum(dim)
    nothing = torch.full_like(index, -torch.inf, dtype=ahead.dtype)  # exp(-inf) = 0, and so is its gradient
    ahead.detach().scatter_add_(dim, index, nothing)
    return ahead.exp_().sum(dim)


def is_class(index: Tensor, logits: Tensor, dim: int) -> Tensor:
    """Where in the logits the class of each row is: compiled into the pass that asks, as gather and scatter are not."""
    classes = torch.arange(logits.shape[dim], device=logits.device)
    return index == classes.view(-1, *[1] * (logits.ndim - dim - 1))


def log_probabilities(logits: Tensor, dim: int) -> Tensor:
    """`log p_c = (z_c - m) - log(sum_j exp(z_j - m))`."""
    shifted = logits - logits.detach().amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def batch_loss(log_probabilities: LogProbabilities, input: Tensor, target: Tensor, options: Options) -> Tensor:
    """What surrounds the loss of a row: precision, smoothing, weights, ignored targets and the reduction.

    Args:
        log_probabilities: the function of that name, or one of the same values.
    """
    dim = class_dim(input)
    logits = widened(input)
    dtype = logits.dtype if logits.dtype == input.dtype or is_autocast(input) else input.dtype
    total: Tensor | None = None
    if target.is_floating_point():
        weight = options.weight
        dtype = torch.promote_types(
            dtype, target.dtype if weight is None else torch.promote_types(target.dtype, weight.dtype)
        )
        distribution, smoothing = target.to(logits.dtype), options.label_smoothing
        if smoothing > 0:
            distribution = distribution * (1 - smoothing) + smoothing / distribution.shape[dim]
        losses = -(weighted(distribution, weight, dim) * log_probabilities(logits, dim)).sum(dim)
    else:
        losses, total = index_losses(log_probabilities, logits, as_index(target, input), options)
    if options.reduction == "sum":
        losses = losses.sum()
    elif options.reduction == "mean":
        losses = losses.mean() if total is None else losses.sum() / total
    return losses if losses.dtype == dtype else losses.to(dtype)


def index_losses(
    log_probabilities: LogProbabilities, logits: Tensor, target: Tensor, options: Options
) -> tuple[Tensor, Tensor | None]:
    """The losses for class indices, and the sum of the weights of those that count; None if all do, and alike."""
    dim, weight = class_dim(logits), options.weight
    ignored = ignored_targets(target, options.ignore_index)
    index = target if ignored is None else target.masked_fill(ignored, 0)  # any class will do, its loss is not used
    smoothing, everyones = options.label_smoothing, None
    try:
        if smoothing > 0:
            log_p = log_probabilities(logits, dim)
            losses = -log_p.gather(dim, index.unsqueeze(dim)).squeeze(dim)
            everyones = -weighted(log_p, weight, dim).sum(dim)
        else:
            losses = surprise(logits, index.unsqueeze(dim), dim)
    except (IndexError, RuntimeError) as error:
        raise out_of_range(target, options.ignore_index, logits.shape[dim]) or error from None
    weights: Tensor | None = None
    if weight is not None:
        weights = of_targets(weight.to(torch.promote_types(weight.dtype, logits.dtype)), index)
        losses = losses * weights
    if everyones is not None:
        losses = (1 - smoothing) * losses + smoothing * everyones / logits.shape[dim]
    if ignored is not None:
        weights = (torch.ones_like(losses) if weights is None else weights).masked_fill(ignored, 0)
        losses = losses.masked_fill(ignored, 0)
    return losses, None if weights is None else weights.sum()


def widened(input: Tensor) -> Tensor:
    """Half types as float32."""
    return input.float() if input.dtype.itemsize < 4 else input


def as_index(target: Tensor, input: Tensor) -> Tensor:
    """Class indices as int64, of one row without a dimension."""
    return target.long() if input.ndim > 1 else target.long().reshape(())


def of_targets(weight: Tensor, index: Tensor) -> Tensor:
    """The weight of each class index, of any shape. (For one of no dimension, `weight[index]` would wait for a GPU.)"""
    return weight.index_select(0, index.flatten()).view_as(index)


def weighted(of_classes: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    """Numbers of the classes along `dim`, each times the weight of its class."""
    return of_classes if weight is None else of_classes * weight.view(-1, *[1] * (of_classes.ndim - dim - 1))


class CrossEntropyLossFromScratch(nn.CrossEntropyLoss):
    """`cross_entropy` as a module: `torch.nn.CrossEntropyLoss` in all but the computation."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)
