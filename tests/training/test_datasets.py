import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torchvision
from filelock import FileLock

from tests.helpers.commands import PROJECT, small, trained
from tests.helpers.published_files import TEST, TRAIN, write_cifar, write_mnist
from xent.recording.errors import BadInput
from xent.training import datasets


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A copy of the project's MNIST, packed. Returns the root of the data sets."""
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for file in (PROJECT / "data/MNIST/raw").glob("*.gz"):
        shutil.copy(file, tmp_path / "MNIST" / "raw")
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_mnist_as_published_needs_no_network(mnist: Path, offline: None) -> None:
    _, (images, labels, classes), content = datasets.read("MNIST", mnist)
    assert content == datasets.PUBLISHED["MNIST"]
    assert images.shape == (10_000, 1, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert classes == 10


def test_a_data_set_is_read_once_a_process(mnist: Path) -> None:
    assert datasets.read("MNIST", mnist) is datasets.read("MNIST", mnist)


def test_fashion_mnist_trains(tmp_path: Path) -> None:
    write_mnist(tmp_path, "FashionMNIST")
    trace = trained(tmp_path / "run", *small(data="fashion_mnist", batch_size=50, **{"data.root": tmp_path}))
    assert trace.step == 8
    assert trace.losses.isfinite().all()


@pytest.mark.parametrize(("choice", "name", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_trains(choice: str, name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attribute, value in write_cifar(tmp_path, name).items():
        monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, value)
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
    train, test, _ = datasets.read(name, tmp_path)
    assert (len(train.images), len(test.images)) == (TRAIN, TEST)


def test_an_absent_data_set_says_which_files_to_put_where(tmp_path: Path, offline: None) -> None:
    with pytest.raises(
        BadInput, match=r"FashionMNIST is not in .*\(.*\): put train-images-idx3-ubyte.gz, .* into .*raw"
    ):
        datasets.read("FashionMNIST", tmp_path)
    with pytest.raises(BadInput, match=r"CIFAR10 is not in .* put cifar-10-python.tar.gz into "):
        datasets.read("CIFAR10", tmp_path)


def test_an_unknown_data_set_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="data.dataset=ImageNet: expected one of MNIST, "):
        datasets.read("ImageNet", tmp_path)


def test_a_damaged_archive_is_named(mnist: Path) -> None:
    file = mnist / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match=r"t10k-labels-idx1-ubyte\.gz is damaged"):
        datasets.read("MNIST", mnist)


def test_a_flipped_bit_in_what_was_unpacked_is_noticed(mnist: Path) -> None:
    datasets.read("MNIST", mnist)
    file = mnist / "MNIST/raw/train-images-idx3-ubyte"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    datasets.read.cache_clear()
    with pytest.raises(BadInput, match=r"train-images-idx3-ubyte is not what train-images-idx3-ubyte\.gz holds"):
        datasets.read("MNIST", mnist)


def test_a_file_cut_short_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = write_mnist(tmp_path, "FashionMNIST") / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match="FashionMNIST in .* cannot be read .*: delete its folder"):
        datasets.read("FashionMNIST", tmp_path)


def test_a_damaged_cifar_batch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attribute, value in write_cifar(tmp_path).items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, attribute, value)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match="data_batch_3 is damaged"):
        datasets.read("CIFAR10", tmp_path)


def test_a_data_set_is_unpacked_by_one_process_at_a_time(mnist: Path) -> None:
    with ThreadPoolExecutor() as other:
        with FileLock(mnist / ".lock"):
            reading = other.submit(datasets.read, "MNIST", mnist)
            assert not wait([reading], timeout=0.5).done, "another is at it"
            assert not (mnist / "MNIST/raw/t10k-images-idx3-ubyte").exists()
        assert len(reading.result()[1].labels) == 10_000
