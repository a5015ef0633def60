"""A small synthetic task, so that a proof needs no data: classify images of noise."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from xent.training.data import Split
from xent.training.models import draw_weights

STEPS = 256
# Targets in a batch that are not ignored. In float64 more than the chunks have that losses divide a batch into, and no
# multiple of them. Fewer where they would cost time, and in narrower types: there a constant of a loss that is rounded
# once adds up in every row, and stands out the more, the more rows average the rounding of the logits.
BATCH, SMALL_BATCH = 131, 29
MANY_LOGITS = 2**14  # in a batch
EPOCH, IMAGES = 64, 2048  # batches, and images at least; with fewer the network would learn them by heart
LABEL_NOISE = 0.2  # without it the loss fades to nothing, and rounding grows in proportion


@dataclass(frozen=True)
class Task:
    """Classify 4x5 images of noise: for each place, a random linear map of the image decides the class.

    Attributes:
        classes: at least 2.
        ignored: the fraction of the targets that is `ignore_index`. With `places`, some rows have more of them than
            others.
        ignore_index: the index of targets that do not count.
        places: the shape of a target; logits are `[batch, classes, *places]`.
        probabilities: whether targets are distributions over the classes, of the shape of the logits, instead of class
            indices.
        device: where images and network are.
        dtype: of the logits that the loss gets; the network computes in float64.
        batch: the number of images in a batch; None for a usual one.
        steps: of a training.
    """

    classes: int
    ignored: float = 0.0
    ignore_index: int = -100
    places: tuple[int, ...] = ()
    probabilities: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    batch: int | None = None
    steps: int = STEPS

    @property
    def batch_size(self) -> int:
        """The number of images in a batch."""
        batch, small_batch = (round(counted / (1 - self.ignored)) for counted in (BATCH, SMALL_BATCH))
        is_cheap = batch * self.classes * prod(self.places) <= MANY_LOGITS
        return self.batch or (batch if self.dtype == torch.float64 and is_cheap else small_batch)

    def network(self, seed: int = 0) -> nn.Module:
        """A new network on the device, in float64, with first weights drawn from `seed`."""
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are built
            last = nn.Linear(64, self.classes * prod(self.places))
            network = nn.Sequential(nn.Flatten(), nn.Linear(20, 64), nn.ReLU(), last, self._unflatten())
        draw_weights(network, seed)
        return network.double().to(self.device)

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """The split to train on, and one to evaluate on: the same images, with plain class indices as targets."""
        generator, count = torch.Generator().manual_seed(0), max(EPOCH * self.batch_size, IMAGES)
        images = torch.randint(256, (count, 1, 4, 5), dtype=torch.uint8, generator=generator)
        teacher = torch.randn(20, self.classes * prod(self.places), generator=generator, dtype=torch.float64)
        scores = self._unflatten()((images.flatten(1).double() - 127.5) @ teacher)
        # A few images have eight times the contrast, so that some rows are very confident, and wrong.
        faint = torch.rand((count, 1, 1, 1), generator=generator) < 0.98
        images = torch.where(faint, 112 + images // 8, images)
        labels = scores.argmax(1)
        drawn = torch.randint(self.classes, labels.shape, generator=generator)
        labels = torch.where(torch.rand(labels.shape, generator=generator) < LABEL_NOISE, drawn, labels)
        mean = torch.full((1, 1, 1), 127.5, dtype=torch.float64)
        if self.probabilities:
            noise = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
            target = (scores / scores.std() + noise).softmax(1).to(self.dtype)
        else:
            target = labels.masked_fill(self._ignored(labels, generator), self.ignore_index)
        images, mean = images.to(self.device), mean.to(self.device)
        train, test = (Split(images, y.to(self.device), self.classes, mean, std=mean / 16) for y in (target, labels))
        return train, test

    def _ignored(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The mask of ignored targets, of the shape of the labels."""
        part = torch.full((len(labels),), self.ignored)
        if self.places:
            part = 2 * part * torch.rand(len(labels), generator=generator)
        return torch.rand(labels.shape, generator=generator) < part.view(-1, *[1] * (labels.ndim - 1))

    def _unflatten(self) -> nn.Module:
        return nn.Unflatten(1, (self.classes, *self.places)) if self.places else nn.Identity()
