"""Microbatches: a batch in parts, on several processes or in turn, whose loss is still the mean of the whole."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from xent.recording.device import widest_float
from xent.recording.errors import BadInput
from xent.recording.processes import rank, world_size
from xent.training.validate_loss import Loss


class Microbatch(NamedTuple):
    """Some samples of a batch.

    Attributes:
        images: `[microbatch, channels, height, width]`.
        target: `[microbatch]`.
        share: the factor of the microbatch's loss in the loss of the batch, times the number of processes, since their
            gradients are averaged; None if the microbatch is the whole batch.
        is_last: whether it is the last that this process computes in the step.
    """

    images: Tensor
    target: Tensor
    share: Tensor | None = None
    is_last: bool = True


def target_counts(loss: Loss, accumulate: int, classes: int, device: torch.device) -> Tensor | None:
    """The weight of each class in the mean over a batch, `[classes]`; None if the loss is a sum.

    The mean is PyTorch's: by the `weight`, `ignore_index` and `reduction` of the loss, if it has them.

    Args:
        accumulate: the number of microbatches per process.

    Raises:
        BadInput: the batch is divided, and the mean over a microbatch does not tell what it adds to the mean over the
            batch.
    """
    if getattr(loss, "reduction", None) == "sum":
        return None
    counts = torch.ones(classes, dtype=widest_float(device), device=device)
    weight, ignored, smoothing = (getattr(loss, name, None) for name in ("weight", "ignore_index", "label_smoothing"))
    if isinstance(weight, Tensor) and weight.shape == counts.shape:
        counts *= weight.detach()
        if smoothing and world_size() * accumulate > 1 and (weight == 0).any():
            what = f"label_smoothing={smoothing} and a class of weight 0: a part of that class alone has no mean"
            raise BadInput(f"{what}; expected accumulate=1 on one process, or a small weight")
    if isinstance(ignored, int) and 0 <= ignored < classes:
        counts[ignored] = 0
    return counts


def microbatches(images: Tensor, target: Tensor, counts: Tensor | None, accumulate: int) -> Iterator[Microbatch]:
    """Divide this process's part of a batch into microbatches.

    A microbatch's share of the loss is the sum of the counts of its targets over the same sum for the batch. The
    targets alone give it, so the processes need not communicate.

    Args:
        images: those of this process.
        target: of the whole batch.
        counts: from `target_counts`.
        accumulate: the number of microbatches.
    """
    if world_size() * accumulate == 1:
        yield Microbatch(images, target)
        return
    own_target = target[slices(len(target), world_size())[rank()]]
    scale = torch.full((), float(world_size()), device=target.device)  # the share of a sum
    if counts is not None:
        scale = scale / counts[target].sum()
    for number, rows in enumerate(slices(len(own_target), accumulate), start=1):
        share = scale if counts is None else counts[own_target[rows]].sum() * scale
        yield Microbatch(images[rows], own_target[rows], share, number == accumulate)


def microbatch_loss(loss: Loss, logits: Tensor, target: Tensor, share: Tensor | None, counts: Tensor | None) -> Tensor:
    """What a microbatch adds to the loss of its batch.

    If none of its targets counts, its mean would be 0 / 0. It then gets targets that count, and a share of 0.
    """
    if share is None:
        return loss(logits, target)
    if counts is not None:
        target = torch.where(share == 0, counts.argmax(), target)
    value = loss(logits, target)
    return value * share.to(torch.promote_types(value.dtype, torch.float32))


def slices(rows: int, parts: int) -> list[slice]:
    """Divide rows into this many slices, as equal as possible."""
    return [slice(rows * part // parts, rows * (part + 1) // parts) for part in range(parts)]
