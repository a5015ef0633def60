import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import MNIST

from tests.helpers.commands import PROJECT
from xent.recording.errors import BadInput
from xent.training.data import Split, batches
from xent.training.datasets import Data, load

CPU = torch.device("cpu")


def split(n: int = 20, size: int = 6, crop_padding: int = 0, flip: bool = False, n_channels: int = 1) -> Split:
    """Images whose every pixel is different, from its image, channel and place."""
    images = torch.arange(n * n_channels * size * size).reshape(n, n_channels, size, size) % 251 + 1
    images = torch.nn.functional.pad(images, [crop_padding] * 4).to(torch.uint8)
    mean, std = torch.zeros(n_channels, 1, 1), torch.ones(n_channels, 1, 1)  # a batch is then its bytes
    return Split(images, torch.arange(n), n, mean, std, crop_padding, flip)


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    """The bytes that a batch of `split()` was made from."""
    return images.to(torch.uint8)


def test_a_batch_is_what_torchvisions_transforms_make_of_the_same_images(tmp_path: Path) -> None:
    config = Data("MNIST", str(PROJECT / "data"), [0.1307], [0.3081])
    train, test = load(config, CPU, torch.float32)
    assert (len(train), len(test), train.shape, train.classes) == (60_000, 10_000, (1, 28, 28), 10)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    shutil.copytree(PROJECT / "data" / "MNIST", tmp_path / "MNIST")
    published = MNIST(tmp_path, train=True, transform=transform, download=True)  # which unpacks the copy
    expected = torch.stack([published[i][0] for i in range(32)])
    torch.testing.assert_close(train.normalised(train.images[:32]), expected, rtol=1e-6, atol=1e-6)
    assert train.labels[:32].tolist() == [published[i][1] for i in range(32)]


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order() -> None:
    order = torch.cat([labels for _, labels in batches(split(), batch_size=5, seed=0, steps=8)])
    first, second = order[:20], order[20:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(20))
    assert first.tolist() != second.tolist()


def test_images_that_do_not_fill_a_batch_are_left_out() -> None:
    shown = [len(labels) for _, labels in batches(split(), batch_size=6, seed=0, steps=4)]
    assert shown == [6] * 4


def test_images_stay_with_their_labels() -> None:
    data = split()
    for images, labels in batches(data, batch_size=5, seed=0, steps=4):
        assert torch.equal(as_bytes(images), data.images[labels])


def test_the_seed_alone_draws_the_batches() -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        return [images for images, _ in batches(split(crop_padding=2, flip=True), 5, seed, steps=8)]

    torch.manual_seed(0)
    first = drawn(seed=1)
    torch.manual_seed(123)
    np.random.seed(5)
    assert all(map(torch.equal, first, drawn(seed=1)))
    assert not all(map(torch.equal, first, drawn(seed=2)))


@pytest.mark.parametrize(
    ("seed", "labels", "images"),
    [(0, "e5bc2a2e3facafd4", "ebf5dbb4e2bb3c66"), (1, "6f3110165fba694d", "f9ce08cfc5f2e85d")],
)
def test_the_batches_of_a_seed_are_the_same_everywhere(seed: int, labels: str, images: str) -> None:
    """No machine, version of PyTorch or of NumPy may change the order, the crops and the flips unseen."""
    plain = [target for _, target in batches(split(1000), 100, seed, steps=20)]
    assert sha256(torch.cat(plain).numpy().tobytes()).hexdigest()[:16] == labels
    augmented = [as_bytes(batch) for batch, _ in batches(split(1000, crop_padding=2, flip=True), 100, seed, steps=20)]
    assert sha256(torch.cat(augmented).numpy().tobytes()).hexdigest()[:16] == images


def test_the_processes_of_a_batch_share_its_draws() -> None:
    """Each has its rows of the images, as they are in the whole, and all the labels."""
    data = split(n=40, crop_padding=2, flip=True)
    parts = [slice(0, 3), slice(3, 8)]
    whole = list(batches(data, 8, seed=3, steps=7))
    shares = [list(batches(data, 8, seed=3, steps=7, rows=rows)) for rows in parts]
    for (images, labels), *own in zip(whole, *shares, strict=True):
        assert all(torch.equal(part, images[rows]) for (part, _), rows in zip(own, parts))
        assert all(torch.equal(target, labels) for _, target in own)


def test_every_image_is_cropped_at_its_own_place_and_half_are_mirrored() -> None:
    data = split(n=400, crop_padding=2, flip=True, n_channels=3)
    seen = set()
    for images, labels in batches(data, batch_size=100, seed=0, steps=4):
        assert images.shape == (100, 3, 6, 6)
        for image, label in zip(as_bytes(images), labels):
            padded = data.images[label]
            windows = {
                (y, x, flipped): window.flip(-1) if flipped else window
                for y in range(5)
                for x in range(5)
                for flipped in (False, True)
                for window in [padded[:, y : y + 6, x : x + 6]]
            }
            found = [place for place, window in windows.items() if torch.equal(window, image)]
            assert len(found) == 1
            seen.add(found[0])
    assert len(seen) == 50, "each of 25 crops, mirrored and not"


def test_without_flip_no_image_is_mirrored() -> None:
    data = split(n=100, crop_padding=1)
    for images, labels in batches(data, 100, 0, steps=1):
        for image, label in zip(as_bytes(images), labels):
            padded = data.images[label]
            assert any(torch.equal(image, padded[:, y : y + 6, x : x + 6]) for y in range(3) for x in range(3))


def test_mean_and_std_must_fit_the_channels() -> None:
    with pytest.raises(BadInput, match=r"data\.std=\[1\.0, 2\.0\]: MNIST has 1 channels"):
        load(Data("MNIST", str(PROJECT / "data"), [0.1], [1.0, 2.0]), CPU, torch.float32)
