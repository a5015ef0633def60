"""What a training was given, its first weights and its batches, as numbers that matched runs have in common."""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

from xent.recording.processes import sum_of_processes

Moments = tuple[float, float]  # the sum and the sum of squares of many numbers, which no order of them changes


@torch.no_grad()
def moments(tensors: Iterable[Tensor], in_parts: bool = False) -> Moments:
    """Those of all numbers in these tensors, of which each process may hold a part."""
    total = torch.zeros(2, dtype=torch.float64)
    for tensor in tensors:
        numbers = tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)  # it has no float64
        total += torch.stack([numbers.sum(), numbers.square().sum()]).cpu()
    amount, squares = (sum_of_processes(total) if in_parts else total).tolist()
    return amount, squares


def alike(one: Moments, other: Moments) -> bool:
    """Whether they may be those of the same numbers, in two precisions say, or nudged."""
    return abs(one[0] - other[0]) <= 0.01 * sqrt(max(one[1], other[1]))
