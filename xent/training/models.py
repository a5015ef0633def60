"""Small classifiers for images of any shape, functions `(shape, classes, width, norm) -> model`, and first weights.

`shape` is channels, height and width of an image; the model maps `[batch, *shape]` to logits `[batch, classes]`. `norm`
is the normalisation of each hidden layer: `batch` normalisation, `group` normalisation over 8 groups of channels or
fewer, or `none`. No model has dropout: all that is random in a run is drawn before its first step.
"""

import math
from functools import partial
from math import gcd, prod

import numpy as np
import torch
from torch import Tensor, nn

from xent.recording.errors import BadInput
from xent.recording.streams import random_words, stream

Shape = tuple[int, int, int]
NORMS = ("batch", "group", "none")
DRAWN = (nn.Linear, nn.modules.conv._ConvNd)  # layers whose weights are drawn here


def mlp(shape: Shape, classes: int, width: int, norm: str = "none") -> nn.Module:
    """Multilayer perceptron: two hidden layers of `width` units."""

    def hidden(inputs: int) -> tuple[nn.Module, ...]:
        return nn.Linear(inputs, width), *_normalisation(width, norm, nn.BatchNorm1d), nn.ReLU()

    return nn.Sequential(nn.Flatten(), *hidden(prod(shape)), *hidden(width), nn.Linear(width, classes))


def cnn(shape: Shape, classes: int, width: int, norm: str = "batch") -> nn.Module:
    """Two 5x5 convolutions of stride 2, of `width` and `2 width` channels, and a linear layer.

    Images have at least 13x13 pixels.
    """
    channels, *size = shape
    for _ in range(2):
        size = [(n - 5) // 2 + 1 for n in size]
    strided = partial(_convolution, norm=norm, kernel=5, stride=2, padding=0)
    convolutions = *strided(channels, width), nn.ReLU(), *strided(width, 2 * width), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2 * width * prod(size), classes))


def resnet(shape: Shape, classes: int, width: int, norm: str = "batch") -> nn.Module:
    """Residual network: a convolution, residual blocks, the mean over the image, and a linear layer.

    The blocks have `width`, `2 width` and `4 width` channels.
    """
    channels = (width, width), (width, 2 * width), (2 * width, 4 * width)
    stages = [Residual(n, m, norm, stride=m // n) for n, m in channels]
    first, last = (*_convolution(shape[0], width, norm), nn.ReLU()), nn.Linear(4 * width, classes)
    return nn.Sequential(*first, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


class Residual(nn.Module):
    """Residual block `relu(x + f(x))`, f two 3x3 convolutions (He et al., arXiv:1512.03385).

    `x` is projected if `f` changes its shape.
    """

    def __init__(self, channels: int, out_channels: int, norm: str, stride: int = 1) -> None:
        super().__init__()
        first = _convolution(channels, out_channels, norm, stride=stride)
        second = _convolution(out_channels, out_channels, norm)
        self.residual = nn.Sequential(*first, nn.ReLU(), *second)
        projection = _convolution(channels, out_channels, norm, kernel=1, padding=0)
        self.shortcut = nn.Identity() if channels == out_channels else nn.Sequential(*projection)
        self.stride = stride
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        # The pixels that a 1x1 convolution of this stride reads. If the convolution itself has the stride, and few
        # channels in channels_last layout, its gradient is wrong on some CPUs, or the process crashes:
        # github.com/uxlfoundation/oneDNN/issues/6035
        seen = x[:, :, :: self.stride, :: self.stride]
        return self.relu(self.shortcut(seen) + self.residual(x))


def _convolution(
    channels: int, out_channels: int, norm: str, kernel: int = 3, padding: int = 1, stride: int = 1
) -> list[nn.Module]:
    """A convolution and its normalisation. The bias is the normalisation's, if there is one."""
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=norm == "none")
    return [convolution, *_normalisation(out_channels, norm, nn.BatchNorm2d)]


def _normalisation(channels: int, norm: str, of_batch: type[nn.Module]) -> list[nn.Module]:
    if norm not in NORMS:
        raise BadInput(f"model.norm={norm}: expected {', '.join(NORMS)}")
    if norm == "none":
        return []
    return [of_batch(channels) if norm == "batch" else nn.GroupNorm(gcd(8, channels), channels)]


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Draw the weights and biases of linear and convolutional layers as PyTorch distributes them: within 1/sqrt(n).

    `n` is the number of inputs of a unit. What other layers drew themselves is kept.
    """
    generator = stream("first weights", seed)
    for layer in model.modules():
        if isinstance(layer, DRAWN):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    parameter.copy_(_uniform(generator, parameter.shape, bound))


def _uniform(generator: np.random.Generator, shape: torch.Size, bound: float) -> Tensor:
    """Uniform numbers from -bound to bound, in float64.

    An exact `u - 1/2` of 53 bits, times the width: it rounds once.
    """
    centred = (random_words(generator, shape.numel()) >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    return torch.from_numpy(centred * (2 * bound)).view(shape)
