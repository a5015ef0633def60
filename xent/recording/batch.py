"""The samples of a batch, whatever it is made of: how many there are, and how to put them in another order."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Number
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from xent.recording.device import to_device
from xent.recording.errors import BadInput

Batch = Any  # a tensor, or containers of parts: lists, tuples, dicts, dataclasses, and what is registered with PyTorch
Rebuild = Callable[[list[Any]], Any]

NO_SAMPLES = str, bytes, Number, Enum, PurePath, type(None), np.generic, torch.dtype, torch.device


def samples_of(batch: Batch, dim: int) -> int:
    """The number of samples of a batch, the same in all parts: along `dim` of arrays, or elements of lists.

    Raises:
        BadInput: the parts have different numbers of samples, there are none, or something of another type.
    """
    parts = list(parts_of(batch))
    sizes = {_length(part, dim) for part in parts if _is_array(part)} or {_samples_in(part, dim) for part in parts}
    samples = next(iter(sizes)) if len(sizes) == 1 else 0
    for part in parts if samples else ():
        if not _is_array(part) and not is_list_of_samples(part, dim, samples):
            sizes |= {_length(tensor, dim) for tensor in tensors_of(part)}
    if len(sizes) != 1 or not samples:
        found = " and ".join(map(str, sorted(sizes))) or "no"
        raise BadInput(f"reorder() got tensors of {found} samples along dim {dim}: expected as many in each")
    return samples


def reordered(batch: Batch, dim: int, order: Tensor) -> Batch:
    """The batch in the same form and types, with the samples of each part in this order."""

    def part_reordered(part: Any) -> Any:
        if isinstance(part, list | tuple) and is_list_of_samples(part, dim, len(order)):
            parts, rebuild = _taken_apart(part)
            return rebuild([parts[i] for i in order.tolist()])
        return reordered(part, dim, order)

    if isinstance(batch, np.ndarray) and batch.ndim:
        return batch.take(order.numpy(), axis=dim)
    if isinstance(batch, Tensor) and batch.ndim:
        return batch.index_select(dim, to_device(order, batch.device))
    if _goes_through(batch):
        return batch
    if _is_list_of_text(batch):
        return [batch[i] for i in order.tolist()] if len(batch) == len(order) else batch
    parts, rebuild = _taken_apart(batch)
    return rebuild([part_reordered(part) for part in parts])


def parts_of(batch: Batch) -> Iterator[Any]:
    """Yield the parts of a batch that have samples: arrays, and lists and tuples inside it.

    Raises:
        BadInput: the batch holds anything of an unknown type.
    """
    if _is_array(batch) or _is_list_of_text(batch):
        yield batch
    elif not _goes_through(batch):
        for part in _taken_apart(batch)[0]:
            if isinstance(part, list | tuple):
                yield part
            else:
                yield from parts_of(part)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors in a batch, however nested, and its arrays of numbers as tensors. Numbers by themselves are not."""
    if isinstance(batch, np.ndarray):
        return [torch.as_tensor(batch)] if batch.ndim and batch.dtype.kind in "buif" else []
    if isinstance(batch, Tensor):
        return [batch] if batch.ndim else []
    try:
        parts, _ = _taken_apart(batch)
    except BadInput:  # a sample of any type
        return []
    return [tensor for part in parts for tensor in tensors_of(part)]


def is_list_of_samples(part: Any, dim: int, samples: int) -> bool:
    """Whether the elements of a list or tuple are the samples, as pictures of several sizes are, or words.

    A tuple of tensors with as many samples each, such as several targets, is none.
    """
    if not isinstance(part, list | tuple) or len(part) != samples:
        return False
    return isinstance(part, list) or not all(_length(tensor, dim) == samples for tensor in tensors_of(part))


def _samples_in(part: Any, dim: int) -> int:
    """The samples of a list, which are its elements; or of a tuple of tensors that have as many each."""
    lengths = {_length(tensor, dim) for tensor in tensors_of(part)} if isinstance(part, tuple) else set()
    return lengths.pop() if len(lengths) == 1 else len(part)


def _is_array(part: Any) -> bool:
    return isinstance(part, Tensor | np.ndarray) and part.ndim > 0


def _length(part: Any, dim: int) -> int:
    return part.shape[dim] if -part.ndim <= dim < part.ndim else 0


def _goes_through(part: Any) -> bool:
    """Whether a part has no samples: a number, a text, None, and the like."""
    return isinstance(part, NO_SAMPLES) or (isinstance(part, Tensor | np.ndarray) and part.ndim == 0)


def _is_list_of_text(batch: Batch) -> bool:
    return isinstance(batch, list) and bool(batch) and all(isinstance(sample, str) for sample in batch)


def _taken_apart(container: Any) -> tuple[list[Any], Rebuild]:
    """The parts of a container, and the function that makes one of its type of such parts.

    Raises:
        BadInput: it is of an unknown type.
    """
    parts, spec = tree_flatten(container, is_leaf=lambda part: part is not container)
    if not (len(parts) == 1 and parts[0] is container):  # PyTorch knows it
        return parts, lambda parts: tree_unflatten(parts, spec)
    if isinstance(container, Mapping):
        keys = list(container)

        def rebuild(parts: list[Any]) -> Any:
            if not isinstance(container, MutableMapping):
                return type(container)(dict(zip(keys, parts)))  # type: ignore[call-arg]
            new = copy(container)
            for key, part in zip(keys, parts):
                new[key] = part
            return new

        return list(container.values()), rebuild
    if isinstance(container, list | tuple):
        return list(container), getattr(type(container), "_make", type(container))
    if is_dataclass(container) and not isinstance(container, type):
        names = [field.name for field in fields(container)]

        def rebuild(parts: list[Any]) -> Any:
            new = copy(container)
            for name, part in zip(names, parts):
                object.__setattr__(new, name, part)  # a frozen one too
            return new

        return [getattr(container, name) for name in names], rebuild
    kind = type(container).__name__
    expected = "expected tensors, arrays, numbers, text, and lists, tuples, dicts and dataclasses of them"
    advice = f"register it, torch.utils._pytree.register_pytree_node({kind}, flatten, unflatten)"
    raise BadInput(f"reorder() got a {kind}: {expected}; {advice}")
