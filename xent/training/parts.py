"""A batch in parts, on several processes or one after the other, whose loss is still the mean of the whole."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from xent.losses.function import FunctionLoss
from xent.recording.device import widest_float
from xent.recording.errors import BadInput
from xent.recording.processes import process, processes, sum_over_processes

Loss = Callable[[Tensor, Tensor], Tensor]


class Part(NamedTuple):
    """Some images of a batch."""

    images: Tensor
    target: Tensor
    share: Tensor | None  # of the batch's loss, times the processes that are averaged over; None: they are the batch


class Parts(NamedTuple):
    """How each batch of a training is divided, and what a target of each class counts in the mean over a batch."""

    accumulate: int  # parts of a process, one after the other
    counts: Tensor | None  # [classes]; None where the loss is a sum

    @classmethod
    def of(cls, loss: Loss, accumulate: int, classes: int, device: torch.device) -> Self:
        """Those for a loss whose mean is PyTorch's: by its `weight`, `ignore_index` and `reduction`, if it has them.

        BadInput if the mean over a part does not tell what the part adds.
        """
        if _argument(loss, "reduction") == "sum":
            return cls(accumulate, None)
        counts = torch.ones(classes, dtype=widest_float(device), device=device)
        weight, ignored = _argument(loss, "weight"), _argument(loss, "ignore_index")
        if isinstance(weight, Tensor) and weight.shape == counts.shape:
            counts *= weight.detach()
        if isinstance(ignored, int) and 0 <= ignored < classes:
            counts[ignored] = 0
        smoothing = _argument(loss, "label_smoothing")
        if isinstance(weight, Tensor) and smoothing and processes() * accumulate > 1 and (weight == 0).any():
            raise BadInput(
                f"label_smoothing={smoothing} and a class of weight 0: a part without other classes has no mean "
                "that tells of its smoothing; expected whole batches, processes=1 and accumulate=1, or a small weight"
            )
        return cls(accumulate, counts)

    def parts(self, images: Tensor, target: Tensor) -> Iterator[Part]:
        """The parts of this process, from its images and the target of the whole batch.

        A mean over a part is that over the batch times what its targets count, over what those of the batch do. All is
        known from the targets, without asking the other processes.
        """
        if processes() * self.accumulate == 1:
            yield Part(images, target, None)
            return
        own = target[slices(len(target), processes())[process()]]
        whole = torch.full((), float(processes()), device=target.device)  # the share of a sum
        if self.counts is not None:
            whole = whole / self.counts[target].sum()
        for rows in slices(len(own), self.accumulate):
            share = whole if self.counts is None else self.counts[own[rows]].sum() * whole
            yield Part(images[rows], own[rows], share)

    def loss(self, loss: Loss, logits: Tensor, target: Tensor, share: Tensor | None) -> Tensor:
        """What a part adds to the loss of its batch.

        Where no target of a part counts, its mean is 0 / 0: it then gets targets that do, and counts as nothing.
        """
        if share is None:
            return loss(logits, target)
        if self.counts is not None:
            target = torch.where(share == 0, self.counts.argmax(), target)
        value = loss(logits, target)
        return value * share.to(torch.promote_types(value.dtype, torch.float32))


def slices(rows: int, parts: int) -> list[slice]:
    """So many rows in parts, as even as they can be."""
    return [slice(rows * part // parts, rows * (part + 1) // parts) for part in range(parts)]


def whole_batch(own: Tensor, rows: int) -> Tensor:
    """`[rows, ...]`, from the rows of each process."""
    placed = own.new_zeros(rows, *own.shape[1:])
    placed[slices(rows, processes())[process()]] = own
    return sum_over_processes(placed)


def _argument(loss: Loss, name: str) -> Any:
    if isinstance(loss, FunctionLoss):
        return loss.arguments.get(name, getattr(loss, f"argument_{name}", None))
    return getattr(loss, name, None)
