"""Fingerprints of what a training was given, its first weights and its batches: matched runs have them in common."""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

from xent.recording.device import widest_float
from xent.recording.processes import sum_over_processes

# Of many numbers x, in whatever order: how many there are, and the sums of x, of its square, and of cos(1.7 x), which
# differs where normalised numbers do.
Fingerprint = tuple[float, float, float, float]
NONE: Fingerprint = (0.0, 0.0, 0.0, 0.0)


@torch.no_grad()
def fingerprint(tensors: Iterable[Tensor], before: Fingerprint = NONE, split: bool = False) -> Fingerprint:
    """That of all numbers in these tensors, and of those before.

    Args:
        split: each process holds other numbers, and those of all are meant.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for tensor in tensors:
        x = tensor.to(widest_float(tensor.device), copy=True)
        sums[0] += x.numel()
        sums[1:] += torch.stack([x.sum(), x.square().sum(), x.mul_(1.7).cos_().sum()]).cpu()
    count, total, squares, cosines = (
        a + b for a, b in zip(before, (sum_over_processes(sums) if split else sums).tolist())
    )
    return count, total, squares, cosines


def may_be_equal(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether they may be of the same numbers, in two precisions say, or nudged: sums of others differ by more."""
    (count, total, squares, cosines), (other_count, other_total, other_squares, other_cosines) = one, other
    return (
        count == other_count
        and abs(total - other_total) <= 0.01 * sqrt(max(squares, other_squares))
        and abs(cosines - other_cosines) <= 0.01 * sqrt(count)
    )
