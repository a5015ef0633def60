"""Fingerprints of what a training was given, its first weights and its batches: matched runs have them in common."""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

from xent.recording.processes import sum_over_processes

Fingerprint = tuple[float, float]  # the sum and the sum of squares of many numbers, whatever their order
NONE: Fingerprint = (0.0, 0.0)


@torch.no_grad()
def fingerprint(tensors: Iterable[Tensor], before: Fingerprint = NONE, split: bool = False) -> Fingerprint:
    """That of all numbers in these tensors, and of those before.

    Args:
        split: each process holds other numbers, and those of all are meant.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for tensor in tensors:
        numbers = tensor.to(widest_float(tensor.device))
        sums += torch.stack([numbers.sum(), numbers.square().sum()]).cpu()
    total, squares = (sum_over_processes(sums) if split else sums).tolist()
    return before[0] + total, before[1] + squares


def may_be_equal(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether they may be of the same numbers, in two precisions say, or nudged."""
    return abs(one[0] - other[0]) <= 0.01 * sqrt(max(one[1], other[1]))


def widest_float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
