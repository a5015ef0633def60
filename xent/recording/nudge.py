"""A nudge changes what must not matter, as drawn from a number. 0 changes nothing.

Two correct programs round differently at the first step, and they add in another order at every step. So a nudge moves
each first weight to a neighbouring number, and puts the samples of every batch in another order.
"""

import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xent.recording.device import sent
from xent.recording.errors import BadInput
from xent.recording.processes import local_share, local_share_like


def bits_of_weights(nudge: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(0,)))


def check_can_nudge(model: nn.Module) -> None:
    """BadInput if some weights have no numbers yet, or are hidden in flat shares."""
    flat = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if flat and any(isinstance(module, flat) for module in model.modules()):
        raise BadInput("FullyShardedDataParallel hides the weights: nudge the model, then wrap it")
    for name, parameter in model.named_parameters():
        if parameter.is_meta or is_lazy(parameter):
            raise BadInput(f"{name} has no numbers yet: nudge the model when its weights are there")


@torch.no_grad()
def nudge_weights(model: nn.Module, bits: np.random.PCG64, precision: torch.dtype | None = None) -> None:
    """Move every weight to a neighbouring number of its type, one ULP up or down, as the next bits say.

    Of a weight that is split over processes each moves its share, as it would be moved in the whole.

    Args:
        precision: what the training casts the weights to, as autocast does: then by one ULP of that, if it is coarser.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            held, up = local_share(parameter), local_share_like(random_bools(parameter.shape, bits), parameter)
            cast = held.to(max(held.dtype, precision or held.dtype, key=lambda dtype: torch.finfo(dtype).eps))
            held += _next(cast, up).to(held.dtype) - cast.to(held.dtype)


def random_neighbours(values: Tensor, bits: np.random.PCG64) -> Tensor:
    """The next number of the type of each value, up or down as the next bits say."""
    return _next(values, random_bools(values.shape, bits))


def random_bools(shape: torch.Size, bits: np.random.PCG64) -> Tensor:
    """As many bools as the shape has places, 64 from a word of random bits."""
    words = bits.random_raw(-(-shape.numel() // 64)).astype("<u8")
    return torch.from_numpy(np.unpackbits(words.view(np.uint8), count=shape.numel()).view(np.bool_)).view(shape)


def _next(values: Tensor, up: Tensor) -> Tensor:
    return torch.nextafter(values, torch.where(sent(up, values.device), torch.inf, -torch.inf).to(values))


def batch_order(samples: int, nudge: int, step: int) -> Tensor:
    """The places `[samples]` of a batch in the order that a nudge gives it at a step."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(1, step))))
    return torch.from_numpy(generator.permutation(samples))
