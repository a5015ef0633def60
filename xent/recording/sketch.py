"""Sketches of tensors, a few numbers in which distances are kept; and hashes of their bits."""

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from xent.recording.device import widest_float
from xent.recording.nudge import random_bools
from xent.recording.processes import whole
from xent.recording.streams import random_words, stream

SUMS = 257  # a prime: with 256, one wrong unit of a layer of 256 would be in one sum, whose square varies much
ROWS = 4096  # of SUMS elements each, before their signs are used again
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes
HUGE = 1e30  # what is larger is that of a mask, and tells nothing


@torch.no_grad()
def sketch(tensor: Tensor) -> Tensor:
    """The sketch of a tensor: its elements times random signs, folded onto 257 sums.

    The distance of two sketches is that of the tensors to about a tenth: each sum is a difference with random signs,
    the expectation of whose square is the sum of the squared differences (Alon, Matias and Szegedy, 1996; in many sums
    as Charikar, Chen and Farach-Colton have it, 2002). It is linear: the sketch of an update is a difference of two.
    NaN, infinite and huge numbers count as 0.

    Args:
        tensor: of any shape, type and device; gathered if it is sharded.

    Returns:
        `[257]`, or the elements themselves if there are fewer; in float64, or the widest type of the device.
    """
    with _disable_current_modes():  # all_in_float64 would look at each operation, and four times as long
        elements = _elements(tensor)
        if elements.numel() <= SUMS:
            return _wide(elements)
        sums = torch.zeros(SUMS, dtype=widest_float(tensor.device), device=tensor.device)
        signs = _signs(tensor.device)
        for number, part in enumerate(elements.split(ROWS * SUMS)):
            rows, rest = divmod(part.numel(), SUMS)
            part = _wide(part)
            folded = (part[: rows * SUMS].view(rows, SUMS) * signs[:rows]).sum(0)
            folded[:rest] += part[rows * SUMS :] * signs[rows % ROWS, :rest]
            sums += folded if number == 0 else folded * _random_signs(number, 1, tensor.device)[0]
        return sums


@torch.no_grad()
def bit_hash(tensor: Tensor) -> Tensor:
    """A hash of the bits of a tensor: an integer on its device, another one if any bit is another.

    It is a sum of the elements, read as integers, times random odd numbers, modulo 2**64. It tells what differs by
    chance, and is no protection against someone who looks for a collision.

    Args:
        tensor: of any shape, type and device; gathered if it is sharded.
    """
    with _disable_current_modes():
        elements = _elements(tensor)
        if elements.dtype != torch.bool:
            elements = elements.contiguous().view(INTEGERS[elements.element_size()])
        hashed = torch.ones((), dtype=torch.int64, device=elements.device)
        factors = _factors(elements.device)
        for part in elements.split(len(factors)):
            integers = part.to(torch.int64, copy=True)
            integers ^= integers >> 32  # a number of few digits has all its bits on that side
            hashed = hashed * factors[0] + integers.mul_(factors[: len(part)]).sum()
        return hashed + elements.numel()


@cache
def _factors(device: torch.device) -> Tensor:
    """Random odd integers, by which the elements of a part are multiplied."""
    words = random_words(stream("hash", 0), 2**18)
    return torch.from_numpy((words | np.uint64(1)).astype("<u8").view("<i8")).to(device)


def _elements(tensor: Tensor) -> Tensor:
    """All elements of a tensor, real and flat."""
    tensor = whole(tensor.detach())
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1)


def _wide(elements: Tensor) -> Tensor:
    """A copy in the widest type."""
    elements = elements.to(widest_float(elements.device))
    return torch.where(elements.abs() < HUGE, elements, 0.0)


@cache
def _signs(device: torch.device) -> Tensor:
    """The signs of the first elements, `[ROWS, SUMS]`; those after them have the same, but for a sign of each sum."""
    return _random_signs(0, ROWS, device)


def _random_signs(number: int, rows: int, device: torch.device) -> Tensor:
    """The random signs `[rows, SUMS]` of this number: 1 or -1."""
    bools = random_bools(torch.Size([rows, SUMS]), stream("sketch", number)).to(device)
    return bools.to(widest_float(device)) * 2 - 1
