"""Fingerprints of a training's first weights and batches: matched runs have them in common."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from xent.recording.batch import is_list_of_samples, parts_of, tensors_of
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
        x = _wide(tensor)
        sums[0] += x.numel()
        sums[1:] += torch.stack([x.sum(), x.square().sum(), x.mul_(1.7).cos_().sum()]).cpu()
    sums = sum_over_ranks(sums) if split else sums
    count, total, squares, cosines = (sums + torch.tensor(before, dtype=torch.float64)).tolist()
    return count, total, squares, cosines


def _wide(tensor: Tensor) -> Tensor:
    """A copy in the widest type, without the infinite and huge numbers of masks, whose sums tell nothing."""
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.to(widest_float(tensor.device), copy=True).nan_to_num_(0, 0, 0).clamp_(-1e30, 1e30)


def may_be_equal(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints may be of the same numbers, in another precision or nudged. Others differ by more."""
    (count, total, squares, cosines), (other_count, other_total, other_squares, other_cosines) = one, other
    sums_are_close = abs(total - other_total) <= 0.01 * sqrt(max(squares, other_squares))
    return count == other_count and sums_are_close and abs(cosines - other_cosines) <= 0.01 * sqrt(count)


@torch.no_grad()
def sample_marks(batch: Any, dim: int, samples: int) -> Tensor:
    """Three numbers that tell each sample of a batch from others.

    Args:
        batch: as `Recorder.reorder` takes it; in a list of samples, an element may hold several tensors.
        dim: the dimension of the samples in tensors.
        samples: their number.

    Returns:
        float64 `[samples, 3]` on the CPU: a hash of the integers; a weighted sum of the floating point numbers, which
        devices round differently; and the sum of their squares.
    """
    marks = torch.zeros(samples, 3, dtype=torch.float64)
    for place, part in enumerate(parts_of(batch)):
        if is_list_of_samples(part, dim, samples):
            marks += torch.stack([_marks(tensors_of(element), place, 1)[0] for element in part])
        else:
            tensors = [tensor.movedim(dim, 0) for tensor in tensors_of(part)]
            marks += _marks(tensors, place, samples)
    return marks


def _marks(tensors: list[Tensor], place: int, samples: int) -> Tensor:
    """The marks `[samples, 3]` of tensors of samples, or of all tensors of one sample."""
    marks = torch.zeros(samples, 3, dtype=torch.float64)
    for number, tensor in enumerate(tensors, start=7 * place):
        rows = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(samples, -1)
        places = torch.arange(rows.shape[1], device=rows.device)
        if rows.is_floating_point():
            x = _wide(rows)
            marks[:, 1] += (x * (1.7 * places + number).cos()).sum(1).cpu()
            marks[:, 2] += x.square().sum(1).cpu()
        else:
            marks[:, 0] += ((rows.long() * (2 * (places + number) + 1)).sum(1) % 2**31).cpu()
    return marks


def other_sample(ours: Tensor, theirs: Tensor) -> int | None:
    """The index of our first sample that is nowhere in the other batch, by the marks `[samples, 3]` of both; else None.

    Integers must be equal, floating point numbers to 1e-5 of their length.
    """
    hashes, sums, squares = theirs.T
    tolerances = 1e-5 * squares.sqrt() + 1e-12
    for sample, (number, total, _) in enumerate(ours.tolist()):
        if not ((hashes == number) & ((sums - total).abs() <= tolerances)).any():
            return sample
    return None
