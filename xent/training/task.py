"""A small task that is made and not read, so that a proof needs no data: images of noise, and what to tell of them."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from xent.training.data import Split
from xent.training.weights import draw_weights

STEPS = 256
# Targets in a batch, and images, that are not ignored. Of fewer of these the network would learn nothing, or by heart.
BATCH = 29  # a number that nobody writes into a loss in place of the batch size
IMAGES = 2048
LABEL_NOISE = 0.2  # without it the loss fades to nothing, and rounding grows in proportion


@dataclass(frozen=True)
class Task:
    """What a network is to tell of images of 4x5 noise: a class, of which a random linear map decides, for each place.

    Attributes:
        classes: at least 2.
        ignored: the part of the targets that is `ignore_index`; where a row has several, some rows have more of them.
        places: the shape of a target; logits are `[batch, classes, *places]`.
        probabilities: targets are distributions over the classes, of the shape of the logits, instead of class indices.
    """

    classes: int
    ignored: float = 0.0
    ignore_index: int = -100
    places: tuple[int, ...] = ()
    probabilities: bool = False
    device: str = "cpu"

    @property
    def batch_size(self) -> int:
        return round(BATCH / (1 - self.ignored))

    @property
    def images(self) -> int:
        return round(IMAGES / (1 - self.ignored))

    def network(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made
            last = nn.Linear(64, self.classes * prod(self.places))
            network = nn.Sequential(nn.Flatten(), nn.Linear(20, 64), nn.ReLU(), last, self._unflatten())
        draw_weights(network, seed)
        return network.double().to(self.device)

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """What to train on, and images to look at, with class indices that nothing is trained on."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (self.images, 1, 4, 5), dtype=torch.uint8, generator=generator)
        teacher = torch.randn(20, self.classes * prod(self.places), generator=generator, dtype=torch.float64)
        scores = self._unflatten()((images.flatten(1).double() - 127.5) @ teacher)
        # A few images are of eight times the contrast: rows of which the network is very sure, and wrong.
        faint = torch.rand((self.images, 1, 1, 1), generator=generator) < 0.98
        images = torch.where(faint, 112 + images // 8, images)
        labels = scores.argmax(1)
        drawn = torch.randint(self.classes, labels.shape, generator=generator)
        labels = torch.where(torch.rand(labels.shape, generator=generator) < LABEL_NOISE, drawn, labels)
        mean = torch.full((1, 1, 1), 127.5, dtype=torch.float64)
        split = Split(images, labels, self.classes, mean, std=mean / 16)
        if self.probabilities:
            noise = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
            target = (scores / scores.std() + noise).softmax(1)
        else:
            target = self._with_ignored(split, generator)
        return self._on_device(replace(split, labels=target)), self._on_device(split)

    def _with_ignored(self, split: Split, generator: torch.Generator) -> Tensor:
        part = torch.full((self.images,), self.ignored)
        if self.places:
            part = 2 * part * torch.rand(self.images, generator=generator)
        drawn = torch.rand(split.labels.shape, generator=generator)
        ignored = drawn < part.view(-1, *[1] * (split.labels.ndim - 1))
        return split.labels.masked_fill(ignored, self.ignore_index)

    def _unflatten(self) -> nn.Module:
        return nn.Unflatten(1, (self.classes, *self.places)) if self.places else nn.Identity()

    def _on_device(self, split: Split) -> Split:
        tensors = {name: getattr(split, name).to(self.device) for name in ("images", "labels", "mean", "std")}
        return replace(split, **tensors)
