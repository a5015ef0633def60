"""The first weights of a run: the same bits on every machine, processor and version of PyTorch."""

import math

import numpy as np
import torch
from torch import Tensor, nn

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


def _uniform(integers: np.random.PCG64, shape: torch.Size, bound: float) -> Tensor:
    """Numbers from -bound to bound, in float64: an exact `u - 1/2` of 53 bits, times the width."""
    centred = (integers.random_raw(shape.numel()) >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    return torch.from_numpy(centred * (2 * bound)).view(shape)
