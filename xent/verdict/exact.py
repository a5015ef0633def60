"""Are two runs equal to the last bit? No floor is needed for that: no nudge, no limit."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xent.recording.sketch import INTEGERS
from xent.recording.trace import Trace


class Difference(NamedTuple):
    """Where two runs cease to be equal.

    Attributes:
        step: the first at which they are not.
        what: differs there, in words: the first captured tensor, or else the loss, the outputs or the weights.
    """

    step: int
    what: str


def first_difference(ours: Trace, theirs: Trace) -> Difference | None:
    """The first step at which two runs differ in any bit that was recorded; None if they are equal.

    Every loss was recorded, outputs and weights after 0, 1, 2, 4, 8, 16, 20, ... steps and the last, every tensor of
    captured steps.
    """
    differences = []
    for step in ours.captures.keys() & theirs.captures.keys():
        both = ours.captures[step], theirs.captures[step]
        for key in dict.fromkeys([*both[0], *both[1]]):
            bits = [tensors[key].bits if key in tensors else None for tensors in both]
            if bits[0] != bits[1]:
                alone = "" if None not in bits else ", which one of them lacks"
                differences.append(Difference(step, f"{key}{alone}"))
                break
    steps = min(ours.step, theirs.step)
    losses = _bits(ours.losses[:steps]) != _bits(theirs.losses[:steps])
    if losses.any():
        differences.append(Difference(int(losses.int().argmax()) + 1, "the loss"))
    for what, one, other in (("the outputs", ours.probes, theirs.probes), ("the weights", ours.bits, theirs.bits)):
        different = [step for step in one if step in other and not _are_equal(one[step], other[step])]
        differences += [Difference(min(different), what)] if different else []
    if ours.step != theirs.step:
        differences.append(Difference(steps + 1, f"one ends after {steps} steps"))
    return min(differences, key=lambda difference: difference.step, default=None)  # of equal ones, the first


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(_bits(one), _bits(other))
    return one == other


def _bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor as integers: NaN is equal to itself, and 0 is not to -0."""
    return tensor.contiguous().view(INTEGERS[tensor.element_size()])
