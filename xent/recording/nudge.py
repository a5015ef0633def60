"""A nudge: all that must not matter, as drawn from a number. What two correct runs of one training may differ by.

Correct programs round differently at the first step, and they add in another order at every step. So a nudge moves each
first weight to a neighbouring number, and puts the samples of every batch in another order. 0 changes nothing.
"""

import numpy as np
import torch
from torch import Tensor, nn

from xent.recording.errors import BadInput
from xent.recording.processes import is_sharded, own_share, share_of


def bits_of_weights(nudge: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(0,)))


@torch.no_grad()
def nudge_weights(model: nn.Module, bits: np.random.PCG64) -> None:
    """Move every weight to a neighbouring number of its type, one ULP up or down, as the next bits say.

    Of sharded weights each process moves its share, by the bits that the whole would get. BadInput where there are no
    numbers to move yet, or not those of a whole weight.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta or hasattr(parameter, "_is_flat_param"):  # of FullyShardedDataParallel, torch's first
            raise BadInput(f"{name} is not there to be nudged: nudge the model before it is sharded")
        if not parameter.is_floating_point():
            continue
        up = draw(parameter.shape, bits)
        if is_sharded(parameter):
            up = share_of(up, parameter)
        own = own_share(parameter)
        own.copy_(_neighbours(own, up))


def draw(shape: torch.Size, bits: np.random.PCG64) -> Tensor:
    """As many bools as the shape has places, 64 of a draw."""
    words = bits.random_raw(-(-shape.numel() // 64)).astype("<u8")
    return torch.from_numpy(np.unpackbits(words.view(np.uint8), count=shape.numel()).view(np.bool_)).view(shape)


def neighbours(values: Tensor, bits: np.random.PCG64) -> Tensor:
    """The next number of the type of each value, up or down as the next bits say."""
    return _neighbours(values, draw(values.shape, bits))


def _neighbours(values: Tensor, up: Tensor) -> Tensor:
    return torch.nextafter(values, torch.where(up, torch.inf, -torch.inf).to(values))


def order_of_batch(samples: int, nudge: int, step: int) -> Tensor:
    """The places `[samples]` of a batch in the order that a nudge gives it at a step."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(1, step))))
    return torch.from_numpy(generator.permutation(samples))
