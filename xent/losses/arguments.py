"""What cross entropy accepts: PyTorch's rules. A broken one gets PyTorch's kind of exception and a plain line.

Every check reads shapes and types alone, never a value on the device, so that none makes the host wait for it.
"""

import warnings
from contextlib import suppress
from operator import index
from typing import NamedTuple, SupportsFloat

import torch
from torch import Tensor

from xent.losses.transforms import may_look

REDUCTIONS = ("mean", "sum", "none")


class Options(NamedTuple):
    """What cross entropy takes besides logits and target; `weight` is `[classes]`."""

    weight: Tensor | None
    ignore_index: int
    reduction: str
    label_smoothing: float


def checked(input: Tensor, target: Tensor, options: Options) -> Options:
    """Refuse what `torch.nn.functional.cross_entropy` refuses, and smoothing below 0, which it takes for 0.

    Returns:
        the options, with an integer of Python's for whatever counts as one, and the name of today for the reduction.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: the batch of the target is not that of the input; an unknown reduction.
        IndexError: the input has no dimension of classes, or no class.
        NotImplementedError: the input is not of a floating-point type of 16 bits or more.
        RuntimeError: any other mismatch of shapes or types; smoothing outside [0, 1].
    """
    if _is_usual(input, target, options):
        return options
    weight, ignore_index, reduction, label_smoothing = options
    for name, tensor in {"input": input, "target": target, "weight": weight}.items():
        if not isinstance(tensor, Tensor) and not (name == "weight" and tensor is None):
            raise TypeError(f"{name} is {type(tensor).__name__}: expected a Tensor")
    if not isinstance(ignore_index, int | torch.SymInt):
        try:
            ignore_index = index(ignore_index)
        except TypeError:
            raise TypeError(f"ignore_index is {type(ignore_index).__name__}: expected int") from None
    if isinstance(ignore_index, bool):
        raise TypeError("ignore_index is bool: expected int")
    if reduction == "elementwise_mean":
        warnings.warn("reduction='elementwise_mean' is deprecated, please use reduction='mean' instead.", stacklevel=3)
        reduction = "mean"
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: expected one of {', '.join(REDUCTIONS)}")
    if not isinstance(label_smoothing, SupportsFloat):
        raise TypeError(f"label_smoothing is {type(label_smoothing).__name__}: expected a number")
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing is {label_smoothing}: expected a number from 0 to 1")
    if not input.is_floating_point() or input.dtype.itemsize < 2:
        raise NotImplementedError(f"input is {input.dtype}: expected float16, bfloat16, float32 or float64")
    if input.ndim == 0:
        raise IndexError("input has no dimension: expected logits of shape (C), (N, C) or (N, C, d1, ..., dk)")
    _check_target(input, target, ignore_index)
    classes = input.shape[class_dim(input)]
    if classes == 0:
        raise IndexError(f"input of shape {_shape(input.shape)} has no class: expected one at least")
    if weight is not None and weight.shape != (classes,):
        raise RuntimeError(f"weight is of shape {_shape(weight.shape)}: expected ({classes}), one for each class")
    if weight is not None and not target.is_floating_point():
        if weight.dtype != input.dtype and not is_autocast(input):
            raise RuntimeError(f"weight is {weight.dtype}: expected {input.dtype}, as the input")
        if weight.requires_grad:
            raise RuntimeError("weight requires a gradient: expected one without, for targets that are class indices")
    return Options(weight, ignore_index, reduction, label_smoothing)


def _is_usual(input: Tensor, target: Tensor, options: Options) -> bool:
    """Whether these are rows of logits, a class index for each, and no other arguments: nothing to check one by one."""
    weight, ignore_index, reduction, label_smoothing = options
    return (
        isinstance(input, Tensor)
        and isinstance(target, Tensor)
        and input.dtype in (torch.float32, torch.float64)
        and target.dtype is torch.int64
        and input.ndim == 2
        and target.shape == input.shape[:1]
        and input.shape[1] > 0
        and weight is None
        and type(ignore_index) is int
        and reduction in REDUCTIONS
        and type(label_smoothing) is float
        and label_smoothing == 0
    )


def _check_target(input: Tensor, target: Tensor, ignore_index: int) -> None:
    """Shape and type of the target; of several faults, the one that PyTorch finds first."""
    if target.shape == input.shape:
        if not target.is_floating_point():
            raise RuntimeError(f"target is {target.dtype} of the input's shape: expected a floating-point type")
        if ignore_index >= 0:
            raise RuntimeError(f"ignore_index is {ignore_index}: class probabilities have no index to ignore")
        return
    one_row = input.ndim == 1
    expected = torch.Size() if one_row else input.shape[:1] + input.shape[2:]
    fits = target.shape == expected or (one_row and target.shape == (1,))
    dtypes = (torch.int64, torch.uint8) if input.ndim < 3 else (torch.int64,)
    if fits and target.dtype in dtypes:
        return
    message = (
        f"target is {target.dtype} of shape {_shape(target.shape)}: expected class indices of shape {_shape(expected)} "
        f"and type {' or '.join(str(dtype) for dtype in dtypes)}, or probabilities of shape {_shape(input.shape)}"
    )
    if not one_row and target.ndim == 0:
        raise IndexError(message)
    other_batch = len(target) != len(input) if not one_row else target.ndim == 1 and not fits and target.dtype in dtypes
    raise ValueError(message) if other_batch else RuntimeError(message)


def is_autocast(input: Tensor) -> bool:
    """Whether autocast is on for the device of the input; the loss is among the operations it runs in float32."""
    return not input.is_meta and torch.is_autocast_enabled(input.device.type)


def class_dim(input: Tensor) -> int:
    """The dimension of the classes: 1, or 0 where there is no batch."""
    return min(input.ndim - 1, 1)


def ignored_targets(target: Tensor, ignore_index: int) -> Tensor | None:
    """Which class indices are ignored; None if none is, where one may look."""
    ignored = target == ignore_index
    return None if may_look(ignored) and not ignored.any() else ignored


def out_of_range(target: Tensor, ignore_index: int, classes: int) -> IndexError | None:
    """Why indexing with these targets failed on the CPU, if it is for their values. (CUDA stops by an assertion.)"""
    if not may_look(target):
        return None
    wrong: list[int] = []
    with suppress(Exception):  # of whoever else looks on; the error that is to be explained is not to be lost
        wrong = target[(target != ignore_index) & ((target < 0) | (target >= classes))].unique().tolist()
    return (
        IndexError(f"target holds {', '.join(map(str, wrong))}: expected classes 0 to {classes - 1}") if wrong else None
    )


def _shape(shape: torch.Size) -> str:
    return f"({', '.join(map(str, shape))})"
