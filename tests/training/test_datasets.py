import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
import torchvision
from filelock import FileLock
from torchvision.transforms.functional import normalize

from tests.helpers.commands import PROJECT, small, trained
from tests.helpers.published_files import TEST, TRAIN, write_cifar, write_mnist
from xent.recording.errors import BadInput
from xent.training import datasets
from xent.training.datasets import Data

LABELS = "MNIST/raw/t10k-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def _nothing_read_before() -> None:
    datasets.read.cache_clear()


def publish(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small data set into the folder `root`, with the checksums that torchvision then knows."""
    write = write_cifar if name.startswith("CIFAR") else write_mnist
    for attribute, value in write(root, name).items():
        monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, value)
    return root


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small MNIST."""
    return publish("MNIST", tmp_path / "data", monkeypatch)


def serve(content: bytes, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[str]:
    """Let every download have this content, and then fail if there is an error. Returns their addresses."""
    addresses: list[str] = []

    def download(url: str, root: str, filename: str, md5: str) -> None:
        addresses.append(url)
        Path(root, filename).write_bytes(content)
        if error:
            raise error

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


def test_images_are_normalised_as_by_torchvision(mnist: Path) -> None:
    data = Data("MNIST", str(mnist), [0.1307], [0.3081], crop_padding=2, flip=True)
    train, test = datasets.load(data, torch.device("cpu"), torch.float32)
    assert (len(train), len(test), train.classes) == (TRAIN, TEST, 10)
    assert train.shape == test.shape == (1, 28, 28)
    assert (train.crop_padding, train.flip, test.crop_padding, test.flip) == (2, True, 0, False)
    expected = normalize(train.images / 255, [0.1307], [0.3081])
    torch.testing.assert_close(train.normalised(train.images), expected, rtol=1e-6, atol=1e-6)


def test_settings_that_fit_no_data_set_are_refused(mnist: Path) -> None:
    with pytest.raises(BadInput, match="data.dataset=ImageNet: expected one of MNIST, "):
        datasets.read("ImageNet", mnist)
    for mean, std, says in (([0.1], [1.0, 2.0], r"std=\[1.0, 2.0\]"), ([0.1, 0.2], [1.0], r"mean=\[0.1, 0.2\]")):
        with pytest.raises(BadInput, match=f"data.{says}: MNIST has 1 channels"):
            datasets.load(Data("MNIST", str(mnist), mean, std), torch.device("cpu"), torch.float32)


def test_an_archive_that_is_damaged_or_cannot_be_read_is_named(mnist: Path) -> None:
    file, md5 = mnist / LABELS, dict(torchvision.datasets.MNIST.resources)[Path(LABELS).name]
    content = file.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], b""):
        file.write_bytes(damaged)
        says = f"{LABELS} is damaged: its MD5 is not {md5}, as published; delete it and get it again"
        with pytest.raises(BadInput, match=says):
            datasets.read("MNIST", mnist)
    file.unlink()
    file.mkdir()  # which not even root can read as a file
    with pytest.raises(BadInput, match=f"{LABELS} (is damaged|cannot be read)"):
        datasets.read("MNIST", mnist)


def test_a_damaged_cifar_archive_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path)
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("it was"))
    with pytest.raises(BadInput, match=r"cifar-10-python\.tar\.gz is damaged: its MD5 is not c58f30"):
        datasets.read("CIFAR10", tmp_path)


def test_an_archive_that_cannot_be_downloaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(b"the half of it", monkeypatch, OSError("connection lost"))
    files = {"FashionMNIST": "FashionMNIST/raw/train-images-idx3-ubyte.gz", "CIFAR10": "cifar-10-python.tar.gz"}
    for name, file in files.items():
        says = rf"{file} cannot be read or downloaded \(OSError: connection lost\): put it there\Z"
        with pytest.raises(BadInput, match=says):
            datasets.read(name, tmp_path)
        assert not (tmp_path / file).exists(), "half a download gets no name"


def test_what_is_missing_is_downloaded(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (mnist / LABELS).read_bytes()
    (mnist / LABELS).rename(mnist / f"{LABELS}.part")  # as a download that was interrupted leaves it
    addresses = serve(content, monkeypatch)
    assert len(datasets.read("MNIST", mnist)[1].labels) == TEST
    assert addresses == [torchvision.datasets.MNIST.mirrors[0] + Path(LABELS).name]
    assert (mnist / LABELS).read_bytes() == content and not list(mnist.rglob("*.part"))


def test_a_download_is_made_by_one_process_at_a_time(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (mnist / LABELS).read_bytes()
    (mnist / LABELS).unlink()
    addresses = serve(content, monkeypatch)
    with ThreadPoolExecutor() as other:
        with FileLock(mnist / "MNIST/raw/.lock"):
            reading = other.submit(datasets.read, "MNIST", mnist)
            assert not wait([reading], timeout=0.5).done, "another is at it"
            assert addresses == []
            (mnist / LABELS).write_bytes(content)
        assert len(reading.result()[1].labels) == TEST
    assert addresses == [], "the other's is taken"
