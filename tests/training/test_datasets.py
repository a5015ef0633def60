import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from filelock import FileLock

from tests.helpers.commands import PROJECT, small, trained
from tests.helpers.published_files import TEST, TRAIN, write_cifar, write_mnist
from xent.recording.errors import BadInput
from xent.training import datasets

LABELS = "MNIST/raw/t10k-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def _nothing_read_before() -> None:
    datasets.read.cache_clear()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A copy of the project's MNIST. Returns the root of the data sets."""
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for file in (PROJECT / "data/MNIST/raw").glob("*.gz"):
        shutil.copy(file, tmp_path / "MNIST" / "raw")
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def publish(name: str, attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for attribute, value in attributes.items():
        monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, value)


def copies_are_downloaded(monkeypatch: pytest.MonkeyPatch, fail: bool = False) -> list[str]:
    """Let files come from the project's MNIST instead of the network, or fail halfway. Returns their addresses."""
    addresses: list[str] = []

    def download(url: str, root: str, filename: str, md5: str) -> None:
        addresses.append(url)
        if fail:
            Path(root, filename).write_bytes(b"the half of it")
            raise OSError("connection lost")
        shutil.copy(PROJECT / "data/MNIST/raw" / url.rpartition("/")[2], Path(root, filename))

    monkeypatch.setattr(datasets, "download_url", download)
    return addresses


def test_mnist_as_published_needs_no_network(mnist: Path, offline: None) -> None:
    train, (images, labels, classes) = datasets.read("MNIST", mnist)
    assert len(train.images) == len(train.labels) == 60_000
    assert (images.shape, images.dtype) == ((10_000, 1, 28, 28), torch.uint8)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert classes == 10


def test_mnist_is_what_torchvision_reads(mnist: Path) -> None:
    expected = torchvision.datasets.MNIST(str(mnist), train=False, download=True)
    _, (images, labels, _) = datasets.read("MNIST", mnist)
    assert torch.equal(images[:, 0], expected.data) and torch.equal(labels, expected.targets)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_is_what_torchvision_reads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(name, write_cifar(tmp_path, name), monkeypatch)
    monkeypatch.setattr(f"torchvision.datasets.{name}._check_integrity", lambda self: True)  # of what is unpacked here
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    shutil.unpack_archive(tmp_path / getattr(torchvision.datasets, name).filename, tmp_path)
    for split, train in zip(datasets.read(name, tmp_path), (True, False)):
        expected = getattr(torchvision.datasets, name)(str(tmp_path), train=train)
        assert torch.equal(split.images, torch.from_numpy(expected.data).permute(0, 3, 1, 2))
        assert split.labels.tolist() == expected.targets
        assert split.classes == len(expected.classes)


def test_a_data_set_is_read_once_a_process(mnist: Path) -> None:
    assert datasets.read("MNIST", mnist) is datasets.read("MNIST", mnist)


def test_reading_writes_nothing(mnist: Path) -> None:
    before = sorted(mnist.rglob("*"))
    datasets.read("MNIST", mnist)
    assert sorted(mnist.rglob("*")) == before


def test_fashion_mnist_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("FashionMNIST", write_mnist(tmp_path, "FashionMNIST"), monkeypatch)
    trace = trained(tmp_path / "run", *small(data="fashion_mnist", batch_size=50, **{"data.root": tmp_path}))
    assert trace.step == 8
    assert trace.losses.isfinite().all()


@pytest.mark.parametrize(("choice", "name", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_trains(choice: str, name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(name, write_cifar(tmp_path, name), monkeypatch)
    trace = trained(
        tmp_path / "run",
        f"data={choice}",
        "model=resnet",
        "model.width=4",
        "batch_size=50",
        "max_steps=8",
        f"data.root={tmp_path}",
    )
    assert trace.losses.isfinite().all()
    assert trace.probes[8].shape == (256, classes)
    train, test = datasets.read(name, tmp_path)
    assert (len(train.images), len(test.images)) == (TRAIN, TEST)


def test_an_absent_archive_that_cannot_be_downloaded_is_named(tmp_path: Path, offline: None) -> None:
    expected = r"{} cannot be read or downloaded \(.*no network.*\): put it there"
    for name, file in {
        "FashionMNIST": r"FashionMNIST/raw/train-images-idx3-ubyte\.gz",
        "CIFAR10": r"cifar-10-python\.tar\.gz",
    }.items():
        with pytest.raises(BadInput, match=expected.format(file)) as told:
            datasets.read(name, tmp_path)
        assert "\n" not in str(told.value)


def test_an_unknown_data_set_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="data.dataset=ImageNet: expected one of MNIST, "):
        datasets.read("ImageNet", tmp_path)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "emptied"])
def test_a_damaged_archive_is_named(damage: str, mnist: Path) -> None:
    data = bytearray((mnist / LABELS).read_bytes())
    data[1000] ^= 1
    cut = {"a flipped bit": len(data), "cut short": len(data) - 1, "emptied": 0}
    (mnist / LABELS).write_bytes(data[: cut[damage]])
    md5 = dict(torchvision.datasets.MNIST.resources)[Path(LABELS).name]
    with pytest.raises(
        BadInput, match=rf"{LABELS} is damaged: its MD5 is not {md5}, as published; delete it and get it again"
    ):
        datasets.read("MNIST", mnist)


def test_a_damaged_cifar_archive_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path)
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("it was"))
    with pytest.raises(BadInput, match=r"cifar-10-python\.tar\.gz is damaged: its MD5 is not c58f30"):
        datasets.read("CIFAR10", tmp_path)


def test_an_archive_that_cannot_be_read_is_named(mnist: Path) -> None:
    (mnist / LABELS).unlink()
    (mnist / LABELS).mkdir()  # which not even root can read as a file
    with pytest.raises(BadInput, match=f"{LABELS} (is damaged|cannot be read)"):
        datasets.read("MNIST", mnist)


def test_what_is_missing_is_downloaded(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mnist / LABELS).unlink()
    addresses = copies_are_downloaded(monkeypatch)
    _, test = datasets.read("MNIST", mnist)
    assert addresses == [torchvision.datasets.MNIST.mirrors[0] + Path(LABELS).name]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert not list(mnist.rglob("*.part"))


def test_half_a_download_gets_no_name(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mnist / LABELS).unlink()
    with monkeypatch.context() as patched:
        copies_are_downloaded(patched, fail=True)
        with pytest.raises(
            BadInput, match=rf"{LABELS} cannot be read or downloaded \(OSError: connection lost\): put it there"
        ):
            datasets.read("MNIST", mnist)
    assert not (mnist / LABELS).exists()
    copies_are_downloaded(monkeypatch)
    assert len(datasets.read("MNIST", mnist)[1].labels) == 10_000, "it is tried again"


def test_a_download_is_made_by_one_process_at_a_time(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mnist / LABELS).unlink()
    addresses = copies_are_downloaded(monkeypatch)
    with ThreadPoolExecutor() as other:
        with FileLock(mnist / "MNIST/raw/.lock"):
            reading = other.submit(datasets.read, "MNIST", mnist)
            assert not wait([reading], timeout=0.5).done, "another is at it"
            assert addresses == []
            shutil.copy(PROJECT / "data" / LABELS, mnist / LABELS)
        assert len(reading.result()[1].labels) == 10_000
    assert addresses == [], "the other's is taken"
