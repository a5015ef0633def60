"""The images: those of a data set, and the batches that are drawn from them."""

import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torchvision
from filelock import FileLock
from torch import Tensor
from torchvision.transforms.functional import normalize

from tests.helpers.commands import PROJECT, small, trained
from tests.helpers.published_files import TEST, TRAIN, write_cifar, write_mnist
from xent.recording.errors import BadInput
from xent.training import datasets
from xent.training.data import Split, batches
from xent.training.datasets import Data

LABELS = "MNIST/raw/t10k-labels-idx1-ubyte.gz"


def publish(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small data set into the folder `root`, with the checksums that torchvision then knows."""
    write = write_cifar if name.startswith("CIFAR") else write_mnist
    for attribute, value in write(root, name).items():
        monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, value)
    return root


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return publish("MNIST", tmp_path / "data", monkeypatch)


def serve(content: bytes, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[str]:
    """Forget what was read; let every download have this content, then fail if told to. Returns their addresses."""
    addresses: list[str] = []

    def download(url: str, root: str, filename: str, md5: str) -> None:
        addresses.append(url)
        Path(root, filename).write_bytes(content)
        if error:
            raise error

    datasets.read.cache_clear()
    monkeypatch.setattr(datasets, "download_url", download)
    return addresses


def test_published_mnist_is_read_once_and_nothing_is_downloaded_or_written(monkeypatch: pytest.MonkeyPatch) -> None:
    root, addresses = PROJECT / "data", serve(b"", monkeypatch)
    before = sorted((root / "MNIST").rglob("*"))
    train, test = datasets.read("MNIST", root)
    assert [len(tensor) for tensor in (*train[:2], *test[:2])] == [60_000, 60_000, 10_000, 10_000]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert datasets.read("MNIST", root)[0] is train
    assert sorted((root / "MNIST").rglob("*")) == before and addresses == []


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
def test_data_is_what_torchvision_reads_and_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, dataset = publish(name, tmp_path / "data", monkeypatch), getattr(torchvision.datasets, name)
    choice = "fashion_mnist" if name == "FashionMNIST" else name.lower()
    settings = small(data=choice, model="resnet", batch_size=50, **{"data.root": root, "model.width": 4})
    trace = trained(tmp_path / "run", *settings)
    assert trace.losses.isfinite().all()

    if name.startswith("CIFAR"):
        shutil.unpack_archive(root / dataset.filename, root)
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # of what is unpacked here
    for split, train in zip(datasets.read(name, root), (True, False)):
        expected = dataset(str(root), train=train, download=True)
        pixels = torch.as_tensor(expected.data)
        assert torch.equal(split.images, pixels.reshape(*pixels.shape[:3], -1).permute(0, 3, 1, 2))
        assert split.labels.tolist() == list(expected.targets)
        assert trace.probes[8].shape == (256, split.classes) == (256, len(expected.classes))


def load(root: Path, mean: list[float], std: list[float]) -> tuple[Split, Split]:
    data = Data("MNIST", str(root), mean, std, crop_padding=2, flip=True)
    return datasets.load(data, torch.device("cpu"), torch.float32)


def test_images_are_normalised_as_by_torchvision_by_settings_that_fit_the_data_set(mnist: Path) -> None:
    train, test = load(mnist, [0.1307], [0.3081])
    assert (len(train), len(test), train.classes) == (TRAIN, TEST, 10)
    assert train.shape == test.shape == (1, 28, 28)
    assert (train.crop_padding, train.flip, test.crop_padding, test.flip) == (2, True, 0, False)
    expected = normalize(train.images / 255, [0.1307], [0.3081])
    torch.testing.assert_close(train.normalised(train.images), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(BadInput, match="data.dataset=ImageNet: expected one of MNIST, "):
        datasets.read("ImageNet", mnist)
    for mean, std, says in (([0.1], [1.0, 2.0], r"std=\[1.0, 2.0\]"), ([0.1, 0.2], [1.0], r"mean=\[0.1, 0.2\]")):
        with pytest.raises(BadInput, match=f"data.{says}: MNIST has 1 channels"):
            load(mnist, mean, std)


def test_a_damaged_archive_is_named_and_not_unpickled(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, md5 = mnist / LABELS, dict(torchvision.datasets.MNIST.resources)[Path(LABELS).name]
    content = file.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], b""):
        file.write_bytes(damaged)
        says = f"{LABELS} is damaged: its MD5 is not {md5}, as published; delete it and get it again"
        with pytest.raises(BadInput, match=says):
            datasets.read("MNIST", mnist)
    write_cifar(mnist)
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("it was"))
    with pytest.raises(BadInput, match=r"cifar-10-python\.tar\.gz is damaged: its MD5 is not c58f30"):
        datasets.read("CIFAR10", mnist)


def test_an_archive_that_cannot_be_downloaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(b"the half of it", monkeypatch, OSError("connection lost"))
    mnist, cifar = "FashionMNIST/raw/train-images-idx3-ubyte.gz", "cifar-10-python.tar.gz"
    for name, file in (("FashionMNIST", mnist), ("CIFAR10", cifar)):
        with pytest.raises(BadInput, match=rf"{file} cannot be read or downloaded .*connection lost\): put it there\Z"):
            datasets.read(name, tmp_path)
        assert not (tmp_path / file).exists(), "half a download gets no name"


def test_what_is_missing_is_downloaded_by_one_process_at_a_time(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = serve(content := (mnist / LABELS).read_bytes(), monkeypatch)
    (mnist / LABELS).rename(mnist / f"{LABELS}.part")  # as a download that was interrupted leaves it
    assert len(datasets.read("MNIST", mnist)[1].labels) == TEST
    assert addresses == [torchvision.datasets.MNIST.mirrors[0] + Path(LABELS).name]
    assert (mnist / LABELS).read_bytes() == content and not list(mnist.rglob("*.part"))

    (mnist / LABELS).unlink()
    datasets.read.cache_clear()
    with ThreadPoolExecutor() as other:
        with FileLock(mnist / "MNIST/raw/.lock"):
            reading = other.submit(datasets.read, "MNIST", mnist)
            assert not wait([reading], timeout=0.5).done, "another is at it"
            (mnist / LABELS).write_bytes(content)
        assert len(reading.result()[1].labels) == TEST
    assert len(addresses) == 1, "the other's is taken"


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
    assert len(set(first)) == len(set(second)) == 20 and first != second


def test_the_batches_of_a_seed_are_the_same_everywhere() -> None:
    """No machine, version of PyTorch or of NumPy may change the order, the crops and the flips unseen."""

    def digest(tensors: list[Tensor]) -> str:
        return sha256(torch.cat(tensors).numpy().tobytes()).hexdigest()[:16]

    of_seeds = [("e5bc2a2e3facafd4", "ebf5dbb4e2bb3c66"), ("6f3110165fba694d", "f9ce08cfc5f2e85d")]
    for seed, pinned in enumerate(of_seeds):
        labels = [target for _, target in batches(split(1000), 100, seed, steps=20)]
        augmented = batches(split(1000, crop_padding=2, flip=True), 100, seed, steps=20)
        assert (digest(labels), digest([batch.to(torch.uint8) for batch, _ in augmented])) == pinned


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
