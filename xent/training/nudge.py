"""A nudge: all that must not matter, as drawn from a number. What two correct runs of one training may differ by.

Correct programs round differently at the first step, and they add in another order at every step. So a nudge moves each
first weight to a neighbouring number, and puts the images of every batch in another order. 0 changes nothing.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@torch.no_grad()
def nudge_weights(model: nn.Module, nudge: int) -> None:
    """Move every parameter to a neighbouring number of its type, one ULP up or down, as drawn from `nudge`."""
    if nudge == 0:
        return
    bits = np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(0,)))
    for parameter in model.parameters():
        parameter.copy_(neighbours(parameter, bits))


def neighbours(values: Tensor, bits: np.random.PCG64) -> Tensor:
    """The next number of the type of each value, up or down as the next bits say."""
    up = torch.from_numpy(bits.random_raw(values.numel()) >> np.uint64(63) == 0).view(values.shape)
    return torch.nextafter(values, torch.where(up, torch.inf, -torch.inf).to(values))


def nudged_order(images: int, batch_size: int, nudge: int, epoch: int) -> NDArray[np.int64]:
    """The places `[images]` of an epoch, those of each batch in an order drawn from `nudge` and the epoch's number."""
    places = np.arange(images)
    if nudge > 0:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(1, epoch))))
        whole = images // batch_size * batch_size
        places[:whole] = generator.permuted(places[:whole].reshape(-1, batch_size), axis=1).reshape(-1)
    return places
