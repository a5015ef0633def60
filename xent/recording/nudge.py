"""A nudge changes what must not matter, as drawn from a number. 0 changes nothing.

Two correct programs round differently at the first step, and add in different orders at every step. So a nudge moves
each first weight to a neighbouring number, and puts the samples of every batch in another order. Where a loss has a
precision of its own, its logits are moved too.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from xent.recording.device import to_device
from xent.recording.errors import BadInput
from xent.recording.processes import local_share, local_share_like
from xent.recording.streams import random_words, stream


def check_can_nudge(model: nn.Module) -> None:
    """Check that the weights of a model can be nudged.

    Raises:
        BadInput: some weights have no values yet (meta or lazy), or FullyShardedDataParallel hides them in flat shards.
    """
    flat = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if flat and any(isinstance(module, flat) for module in model.modules()):
        raise BadInput("FullyShardedDataParallel hides the weights: nudge the model, then wrap it")
    for name, parameter in model.named_parameters():
        if parameter.is_meta or is_lazy(parameter):
            raise BadInput(f"{name} has no numbers yet: nudge the model when its weights are there")


@torch.no_grad()
def nudge_weights(model: nn.Module, bits: np.random.Generator, precision: torch.dtype | None = None) -> None:
    """Move every weight by one ULP, up or down: to a neighbouring number of its type.

    If a weight is sharded over processes, each process moves its shard, just as it would move in the whole weight.

    Args:
        bits: draws the directions.
        precision: the type that the training casts weights to, as autocast does. If it is coarser than the weight's
            type, the weight moves by one ULP of it.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            held, up = local_share(parameter), local_share_like(random_bools(parameter.shape, bits), parameter)
            cast = held.to(max(held.dtype, precision or held.dtype, key=lambda dtype: torch.finfo(dtype).eps))
            held += neighbours(cast, up).to(held.dtype) - cast.to(held.dtype)


def rounded_logits(logits: Tensor, dtype: torch.dtype, nudge: int, step: int) -> Tensor:
    """Cast logits to the precision of the loss; a nudge moves each by one ULP of it.

    Any kernel of that precision may round so. Gradients flow through.

    Args:
        logits: `[batch, classes, ...]`.
        dtype: the precision in which the loss computes.
        nudge, step: the direction, up or down, is drawn from both.
    """
    rounded = logits.to(dtype)
    if nudge == 0:
        return rounded
    with torch.no_grad():
        up = random_bools(rounded.shape, stream("nudged logits", nudge, step))
        move = neighbours(rounded, up) - rounded  # exact
    return rounded + move


def random_bools(shape: torch.Size, bits: np.random.Generator) -> Tensor:
    """Random bools of this shape, 64 from each random word."""
    words = random_words(bits, -(-shape.numel() // 64)).astype("<u8")
    return torch.from_numpy(np.unpackbits(words.view(np.uint8), count=shape.numel()).view(np.bool_)).view(shape)


def neighbours(values: Tensor, up: Tensor) -> Tensor:
    """The neighbouring number of each value in its type: the next one up or down."""
    return torch.nextafter(values, torch.where(to_device(up, values.device), torch.inf, -torch.inf).to(values))


def batch_order(samples: int, nudge: int, step: int) -> Tensor:
    """The order `[samples]` in which a nudge puts the samples of a batch at this step."""
    return torch.from_numpy(stream("nudged order", nudge, step).permutation(samples))


Batch = Any  # a tensor, or lists, tuples and dicts of parts


def parts_of(batch: Batch) -> Iterator[Any]:
    """Yield the parts of a batch: tensors, and lists and tuples inside it.

    Raises:
        BadInput: the batch holds anything else.
    """
    if isinstance(batch, Tensor):
        yield batch
        return
    if not isinstance(batch, Mapping | list | tuple):
        raise BadInput(f"reorder() got a {type(batch).__name__}: expected tensors, or lists, tuples and dicts of them")
    for part in batch.values() if isinstance(batch, Mapping) else batch:
        if isinstance(part, list | tuple):
            yield part
        else:
            yield from parts_of(part)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, however nested."""
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def samples_of(batch: Batch, dim: int) -> int:
    """The number of samples of a batch, the same in all parts: along `dim` of tensors, or elements of lists.

    Raises:
        BadInput: the parts have different numbers of samples, or there are none.
    """
    parts = list(parts_of(batch))
    sizes = {_length(part, dim) for part in parts if isinstance(part, Tensor)} or {len(part) for part in parts}
    samples = next(iter(sizes)) if len(sizes) == 1 else 0
    for part in parts if samples else ():
        if not isinstance(part, Tensor) and not is_list_of_samples(part, dim, samples):
            sizes |= {_length(tensor, dim) for tensor in tensors_of(part)} or {len(part)}
    if len(sizes) != 1 or not samples:
        found = " and ".join(map(str, sorted(sizes))) or "no"
        raise BadInput(f"reorder() got tensors of {found} samples along dim {dim}: expected as many in each")
    return samples


def _length(tensor: Tensor, dim: int) -> int:
    return tensor.shape[dim] if -tensor.ndim <= dim < tensor.ndim else 0


def is_list_of_samples(part: Any, dim: int, samples: int) -> bool:
    """Whether the elements of a list or tuple are the samples, as pictures of several sizes are.

    A tuple of tensors with as many samples each, such as several targets, is none.
    """
    has_parts = all(_length(tensor, dim) == samples for tensor in tensors_of(part))
    return len(part) == samples and (isinstance(part, list) or not has_parts)


def reordered(batch: Batch, dim: int, order: Tensor, is_part: bool = False) -> Batch:
    """The batch in the same form, with the samples of each part in this order."""
    if isinstance(batch, Tensor):
        return batch.index_select(dim, to_device(order, batch.device))
    if isinstance(batch, Mapping):
        return {key: reordered(part, dim, order, is_part=True) for key, part in batch.items()}
    if is_part and is_list_of_samples(batch, dim, len(order)):
        parts = [batch[i] for i in order.tolist()]
    else:
        parts = [reordered(part, dim, order, is_part=True) for part in batch]
    return parts if isinstance(batch, list) else tuple(parts)
