"""Fingerprints of a training's first weights and batches: matched runs have them in common."""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

from xent.recording.device import widest_float
from xent.recording.processes import sum_over_ranks

# For numbers x in any order: their count, and the sums of x, of x squared and of cos(1.7 x). All normalised data
# has the same sum and sum of squares; the cosine tells it apart.
Fingerprint = tuple[float, float, float, float]
NONE: Fingerprint = (0.0, 0.0, 0.0, 0.0)


@torch.no_grad()
def fingerprint(tensors: Iterable[Tensor], before: Fingerprint = NONE, split: bool = False) -> Fingerprint:
    """The fingerprint of all numbers in these tensors, added to an earlier fingerprint.

    Args:
        tensors: of any shapes, types and devices.
        before: the earlier fingerprint.
        split: whether each process holds other numbers; then those of all processes are counted.

    Returns:
        the count of the numbers `x`, and the sums of `x`, of `x` squared and of `cos(1.7 x)`, in float64.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for tensor in tensors:
        x = tensor.to(widest_float(tensor.device), copy=True)
        sums[0] += x.numel()
        sums[1:] += torch.stack([x.sum(), x.square().sum(), x.mul_(1.7).cos_().sum()]).cpu()
    sums = sum_over_ranks(sums) if split else sums
    count, total, squares, cosines = (sums + torch.tensor(before, dtype=torch.float64)).tolist()
    return count, total, squares, cosines


def may_be_equal(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints may be of the same numbers, in another precision or nudged. Others differ by more."""
    (count, total, squares, cosines), (other_count, other_total, other_squares, other_cosines) = one, other
    sums_are_close = abs(total - other_total) <= 0.01 * sqrt(max(squares, other_squares))
    return count == other_count and sums_are_close and abs(cosines - other_cosines) <= 0.01 * sqrt(count)
