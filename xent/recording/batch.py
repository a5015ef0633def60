"""A batch as loops hand it on: tensors, or lists, tuples and dicts of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from xent.recording.device import sent
from xent.recording.errors import BadInput


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Every tensor in it. BadInput for anything else."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | list | tuple):
        for each in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_of(each)
    else:
        raise BadInput(f"reorder() got a {type(batch).__name__}: expected tensors, or lists, tuples and dicts of them")


def samples_of(tensors: list[Tensor], dim: int) -> int:
    """How many samples they have along `dim`. BadInput if not all have as many."""
    sizes = sorted({tensor.shape[dim] if -tensor.ndim <= dim < tensor.ndim else 0 for tensor in tensors})
    if len(sizes) != 1:
        found = " and ".join(map(str, sizes)) or "no"
        raise BadInput(f"reorder() got tensors of {found} samples along dim {dim}: expected as many in each")
    return sizes[0]


def reordered(batch: Any, dim: int, order: Tensor) -> Any:
    """The same with the samples of each tensor in another order."""
    if isinstance(batch, Tensor):
        return batch.index_select(dim, sent(order, batch.device))
    if isinstance(batch, Mapping):
        return {key: reordered(each, dim, order) for key, each in batch.items()}
    found = [reordered(each, dim, order) for each in batch]
    return found if isinstance(batch, list) else tuple(found)
