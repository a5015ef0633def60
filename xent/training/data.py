"""A data set as tensors on the device, and its batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xent.recording.streams import stream


@dataclass(frozen=True)
class Split:
    """Labelled images on the device, as bytes. A batch of them is an index, a cast and a normalisation there.

    Attributes:
        images: uint8 `[n, channels, height, width]`, with `crop_padding` black pixels on every side for random crops.
        labels: int64 `[n]`, from 0 to `classes - 1`; xent.training.task has other targets too.
        classes: the number of classes.
        mean: the mean of each channel's bytes, `[channels, 1, 1]` between 0 and 255, in the dtype that batches are to
            have.
        std: their standard deviation, likewise.
        crop_padding: 0 for no crops.
        flip: whether images are mirrored at random, each with probability 1/2.
    """

    images: Tensor
    labels: Tensor
    classes: int
    mean: Tensor
    std: Tensor
    crop_padding: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def steps_per_epoch(self, batch_size: int) -> int:
        """The number of whole batches."""
        return len(self) // batch_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image after cropping."""
        channels, height, width = self.images.shape[1:]
        return channels, height - 2 * self.crop_padding, width - 2 * self.crop_padding

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise bytes to mean 0 and standard deviation 1.

        Args:
            images: uint8 `[batch, channels, height, width]`.

        Returns:
            the images in the dtype of `mean`, of the same shape.
        """
        return images.to(self.mean.dtype).sub_(self.mean).div_(self.std)


def batches(
    split: Split, batch_size: int, seed: int, steps: int, start: int = 0, rows: slice = slice(None)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw the batches of a training of `steps` steps, after the first `start`.

    In each epoch every image comes once, in a new order. Images that do not fill a last batch are left out.

    The draws of an epoch (its order, crops and flips) depend on `seed` and the number of the epoch alone. They are
    drawn on the CPU and moved to the device once an epoch.

    Args:
        start: the number of steps to skip, made before.
        rows: which images of each batch to return: those of this process.

    Yields:
        normalised images of `rows`, and the labels of the whole batch.
    """
    per_epoch = split.steps_per_epoch(batch_size)
    for epoch in range(start // per_epoch, -(-steps // per_epoch)):
        generator = stream("batches", seed, epoch)
        order = _to(split, generator.permutation(len(split)))
        augmented = split.crop_padding > 0 or split.flip
        if augmented:
            corner = _to(split, generator.integers(0, 2 * split.crop_padding + 1, (len(split), 2)))
            flipped = _to(split, generator.random(len(split)) < 0.5 * split.flip)
        for step in range(max(epoch * per_epoch, start), min((epoch + 1) * per_epoch, steps)):
            position = slice(step % per_epoch * batch_size, (step % per_epoch + 1) * batch_size)
            chosen = order[position]
            if augmented:
                images = _cropped(split, chosen[rows], corner[position][rows], flipped[position][rows])
            else:
                images = split.images.index_select(0, chosen[rows])  # a quarter of the time of split.images[chosen]
            yield split.normalised(images), split.labels.index_select(0, chosen)


def _cropped(split: Split, chosen: Tensor, corner: Tensor, flipped: Tensor) -> Tensor:
    """The chosen images, each cropped at its corner `[batch, 2]` and mirrored where `flipped`, by a single index."""
    _, height, width = split.shape
    rows = torch.arange(height, device=chosen.device) + corner[:, :1]
    columns = torch.arange(width, device=chosen.device).expand(len(chosen), -1)
    columns = torch.where(flipped[:, None], width - 1 - columns, columns) + corner[:, 1:]
    images = split.images[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return images.permute(0, 3, 1, 2)


def _to(split: Split, draws: np.ndarray) -> Tensor:
    return torch.from_numpy(draws).to(split.labels.device)
