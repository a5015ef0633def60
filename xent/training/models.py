"""Small classifiers: functions `(shape, classes, width, norm) -> model` for images of any shape.

`shape` is channels, height and width of an image; the model maps `[batch, *shape]` to logits `[batch, classes]`.
`norm` is the normalisation of each hidden layer: over the `batch`, over each `group` of channels, of 8 groups or less,
or `none`. No model has dropout: all that is random in a run is drawn before its first step.
"""

from math import gcd, prod

from torch import Tensor, nn

Shape = tuple[int, int, int]
NORMS = ("batch", "group", "none")


def mlp(shape: Shape, classes: int, width: int, norm: str = "none") -> nn.Module:
    """Two hidden layers of `width` units."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), width),
        *_normalisation(width, norm, nn.BatchNorm1d),
        nn.ReLU(),
        nn.Linear(width, width),
        *_normalisation(width, norm, nn.BatchNorm1d),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def cnn(shape: Shape, classes: int, width: int, norm: str = "batch") -> nn.Module:
    """Two 5x5 convolutions of stride 2, of `width` and `2 width` channels, and a linear layer; for 13x13 and up."""
    channels, *size = shape
    for _ in range(2):
        size = [(n - 5) // 2 + 1 for n in size]
    return nn.Sequential(
        *_convolution(channels, width, norm, kernel=5, stride=2, padding=0),
        nn.ReLU(),
        *_convolution(width, 2 * width, norm, kernel=5, stride=2, padding=0),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * prod(size), classes),
    )


def resnet(shape: Shape, classes: int, width: int, norm: str = "batch") -> nn.Module:
    """A convolution, residual blocks of `width`, `2 width` and `4 width` channels, and the mean over the image."""
    return nn.Sequential(
        *_convolution(shape[0], width, norm),
        nn.ReLU(),
        Residual(width, width, norm),
        Residual(width, 2 * width, norm, stride=2),
        Residual(2 * width, 4 * width, norm, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


class Residual(nn.Module):
    """`relu(x + f(x))`, f two 3x3 convolutions; x is projected if f changes shape (He et al., arXiv:1512.03385)."""

    def __init__(self, channels: int, out_channels: int, norm: str, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(channels, out_channels, norm, stride=stride),
            nn.ReLU(),
            *_convolution(out_channels, out_channels, norm),
        )
        projection = _convolution(channels, out_channels, norm, kernel=1, padding=0)
        self.shortcut = nn.Identity() if channels == out_channels else nn.Sequential(*projection)
        self.stride = stride
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        # What a 1x1 convolution of this stride looks at. With the stride its own, and few channels innermost, its
        # gradient is wrong on some CPUs, or the process crashes: github.com/uxlfoundation/oneDNN/issues/6035
        seen = x[:, :, :: self.stride, :: self.stride]
        out: Tensor = self.relu(self.shortcut(seen) + self.residual(x))
        return out


def _convolution(
    channels: int, out_channels: int, norm: str, kernel: int = 3, padding: int = 1, stride: int = 1
) -> list[nn.Module]:
    """A convolution and its normalisation, which has the bias."""
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=norm == "none")
    return [convolution, *_normalisation(out_channels, norm, nn.BatchNorm2d)]


def _normalisation(channels: int, norm: str, of_batch: type[nn.Module]) -> list[nn.Module]:
    if norm == "none":
        return []
    return [of_batch(channels) if norm == "batch" else nn.GroupNorm(gcd(8, channels), channels)]
