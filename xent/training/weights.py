"""The first weights of a run: the same bits on every machine, processor and version of PyTorch."""

import math
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from xent.recording.errors import BadInput

# PyTorch draws in float32, by kernels that multiply and add in one rounding or in two, as the processor has it. So the
# draws come from NumPy's PCG64, whose stream of integers is fixed, and become numbers by operations that round once.
DRAWN = (nn.Linear, nn.modules.conv._ConvNd)


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Draw weights and biases of linear and convolutional layers anew, as PyTorch distributes them: within 1/sqrt(n).

    `n` is the number of inputs of a unit. What other layers have drawn by themselves is left as it is.
    """
    integers = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(0,)))
    for layer in model.modules():
        if isinstance(layer, DRAWN):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    parameter.copy_(_uniform(integers, parameter.shape, bound))


@torch.no_grad()
def begin_with_cosines(model: nn.Module) -> None:
    """Let the filters of the first convolution be cosines over their patch, from the lowest frequency on, in pairs.

    A pair is a filter of length 1, of the two-dimensional cosine transform (Ahmed, Natarajan and Rao, 1974), and its
    negative, since a ReLU follows. Natural images have nearly these as principal components. Filters without a pair
    stay as they were. BadInput if there is no convolution of images.
    """
    layer = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if layer is None:
        raise BadInput("first_filters=cosines: the model has no convolution; expected first_filters=drawn")
    filters, channels, height, width = layer.weight.shape
    rows, columns = _cosines(height), _cosines(width)
    frequencies = sorted(product(range(height), range(width)), key=lambda each: (each[0] ** 2 + each[1] ** 2, each))
    half = filters // 2
    for number, ((row, column), channel) in zip(range(half), product(frequencies, range(channels))):
        wave = torch.outer(rows[row], columns[column])
        layer.weight[[number, number + half]] = 0
        layer.weight[number, channel], layer.weight[number + half, channel] = wave, -wave


def _cosines(places: int) -> Tensor:
    """`cos(pi k (i + 1/2) / n)` in float64, `[frequencies k, places i]`, each of length 1."""
    found = [[math.cos(math.pi * k * (i + 0.5) / places) for i in range(places)] for k in range(places)]
    return nn.functional.normalize(torch.tensor(found, dtype=torch.float64))


def _uniform(integers: np.random.PCG64, shape: torch.Size, bound: float) -> Tensor:
    """Numbers from -bound to bound, in float64: an exact `u - 1/2` of 53 bits, times the width."""
    centred = (integers.random_raw(shape.numel()) >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    return torch.from_numpy(centred * (2 * bound)).view(shape)
