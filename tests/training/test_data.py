from hashlib import sha256

import pytest
import torch
from torch import Tensor

from xent.training.data import Split, batches


def split(n: int, crop_padding: int = 0, flip: bool = False, n_channels: int = 1) -> Split:
    """6x6 images whose every pixel is different, from its image, channel and place. A batch of them is their bytes."""
    images = torch.arange(n * n_channels * 36).reshape(n, n_channels, 6, 6) % 251 + 1
    images = torch.nn.functional.pad(images, [crop_padding] * 4).to(torch.uint8)
    mean, std = torch.zeros(n_channels, 1, 1), torch.ones(n_channels, 1, 1)
    return Split(images, torch.arange(n), n, mean, std, crop_padding, flip)


def test_an_epoch_shows_images_once_with_their_labels_in_whole_batches_and_the_next_in_another_order() -> None:
    data = split(22)
    images, labels = zip(*batches(data, batch_size=5, seed=0, steps=8))
    assert [len(batch) for batch in labels] == 8 * [5], "two images of each epoch are left out"
    assert torch.equal(torch.cat(images).to(torch.uint8), data.images[torch.cat(labels)])
    first, second = torch.cat(labels).view(2, 20).tolist()
    assert len(set(first)) == len(set(second)) == 20
    assert first != second


@pytest.mark.parametrize(
    ("seed", "labels", "images"),
    [(0, "e5bc2a2e3facafd4", "ebf5dbb4e2bb3c66"), (1, "6f3110165fba694d", "f9ce08cfc5f2e85d")],
)
def test_the_batches_of_a_seed_are_the_same_everywhere(seed: int, labels: str, images: str) -> None:
    """No machine, version of PyTorch or of NumPy may change the order, the crops and the flips unseen."""

    def digest(tensors: list[Tensor]) -> str:
        return sha256(torch.cat(tensors).numpy().tobytes()).hexdigest()[:16]

    assert digest([target for _, target in batches(split(1000), 100, seed, steps=20)]) == labels
    augmented = batches(split(1000, crop_padding=2, flip=True), 100, seed, steps=20)
    assert digest([batch.to(torch.uint8) for batch, _ in augmented]) == images


@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 8)])
def test_a_process_gets_its_rows_of_the_images_and_all_labels(rows: slice) -> None:
    for data in (split(40), split(40, crop_padding=2, flip=True)):
        pairs = zip(batches(data, 8, seed=3, steps=7), batches(data, 8, seed=3, steps=7, rows=rows), strict=True)
        for (images, labels), (share, same_labels) in pairs:
            assert torch.equal(share, images[rows]) and torch.equal(same_labels, labels)


@pytest.mark.parametrize("flip", [True, False])
def test_every_image_is_cropped_at_a_place_of_its_own_and_half_are_mirrored_if_any(flip: bool) -> None:
    data, places = split(n=400, crop_padding=2, flip=flip, n_channels=3), []
    for images, labels in batches(data, batch_size=100, seed=0, steps=4):
        for image, label in zip(images.to(torch.uint8), labels, strict=True):
            crops = data.images[label].unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
            crops = torch.cat([crops, crops.flip(-1)])  # those of all 25 places, then mirrored
            places += (crops == image).flatten(1).all(1).nonzero().tolist()
    assert len(places) == 400
    assert {place for (place,) in places} == set(range(50 if flip else 25))
    assert sum(place >= 25 for (place,) in places) == pytest.approx(200 * flip, abs=30)
