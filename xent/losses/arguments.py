"""Argument checks of cross entropy: what PyTorch accepts is accepted, the rest is refused in PyTorch's words."""

from operator import index

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def check_arguments(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> tuple[int, str]:
    """Check the arguments of a cross entropy as `torch.nn.functional.cross_entropy` does.

    One check is stricter: label smoothing below 0, which PyTorch takes for 0, is refused. Only shapes and types are
    read: to read a value on a GPU, the host would have to wait for it.

    Args:
        input, target, weight, ignore_index, reduction, label_smoothing: see `xent.cross_entropy`.

    Returns:
        `ignore_index` as a Python integer, and the current name of the reduction.

    Raises:
        Exception: the one that PyTorch raises for these arguments.
        RuntimeError: label smoothing is outside [0, 1].
    """
    if isinstance(input, Tensor) and isinstance(target, Tensor) and (weight is None or isinstance(weight, Tensor)):
        is_index = type(ignore_index) is int or isinstance(ignore_index, torch.SymInt)
        is_smoothing = isinstance(label_smoothing, (float, int)) and 0 <= label_smoothing <= 1
        are_valid = is_index and is_smoothing and reduction in ("mean", "sum", "none")
        if are_valid and _fit(input, target, weight, ignore_index):
            return ignore_index, reduction
    cross_entropy(input, target, weight, None, ignore_index, None, reduction, label_smoothing)  # raises what is wrong
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing is {label_smoothing}: expected a number from 0 to 1")
    return index(ignore_index), "mean" if reduction == "elementwise_mean" else reduction


def _fit(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> bool:
    """Whether PyTorch accepts these shapes and types. It accepts a few more, such as a target `[1]` for one row."""
    if not input.is_floating_point() or input.dtype.itemsize < 2 or input.ndim == 0:
        return False
    dim, classes = class_dim(input), input.shape[class_dim(input)]
    if classes == 0 or (weight is not None and weight.shape != (classes,)):
        return False
    if target.is_floating_point():
        return target.shape == input.shape and ignore_index < 0
    if weight is not None and (weight.requires_grad or not (weight.dtype is input.dtype or is_autocast(input))):
        return False
    is_index = target.dtype is torch.int64 or (target.dtype is torch.uint8 and input.ndim < 3)
    return is_index and target.shape == input.shape[:dim] + input.shape[dim + 1 :]


def is_autocast(input: Tensor) -> bool:
    """Whether autocast is on for the input's device. Autocast runs the loss in float32."""
    return not input.is_meta and torch.is_autocast_enabled(input.device.type)


def class_dim(input: Tensor) -> int:
    """The dimension of the classes: 1, or 0 for a single row without a batch."""
    return min(input.ndim - 1, 1)
