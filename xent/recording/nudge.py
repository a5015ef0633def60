"""A nudge changes what must not matter, as drawn from a number. 0 changes nothing.

Two correct programs round differently at the first step, and add in different orders at every step. So a nudge moves
each first weight to a neighbouring number, and puts the samples of every batch in another order. Where a loss has a
precision of its own, its logits are moved too.
"""

import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xent.recording.device import to_device
from xent.recording.errors import BadInput
from xent.recording.processes import local_share, local_share_like
from xent.recording.streams import random_words, stream


def check_can_nudge(model: nn.Module) -> None:
    """Check that the weights of a model can be nudged.

    Raises:
        BadInput: some weights have no values yet (meta or lazy), several are one number in memory, or
            FullyShardedDataParallel hides them in flat shards.
    """
    flat = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if flat and any(isinstance(module, flat) for module in model.modules()):
        raise BadInput("FullyShardedDataParallel hides the weights: nudge the model, then wrap it")
    for name, parameter in model.named_parameters():
        if parameter.is_meta or is_lazy(parameter):
            raise BadInput(f"{name} has no numbers yet: nudge the model when its weights are there")
        if any(size > 1 and not stride for size, stride in zip(parameter.shape, parameter.stride())):
            raise BadInput(f"{name} is expanded, several of its weights are one number: make it contiguous")


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
        if not (parameter.is_floating_point() or parameter.is_complex()):
            continue
        whole = local_share(parameter)
        for held in (whole.real, whole.imag) if whole.is_complex() else (whole,):
            up = local_share_like(random_bools(parameter.shape, bits), parameter)
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
