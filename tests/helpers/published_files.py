"""Small data sets in the layouts that were published, written with random pixels."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import torchvision

TRAIN, TEST = 300, 270  # images of each split; the probe wants 256


def write_mnist(root: Path, name: str = "MNIST", compressed: bool = False) -> Path:
    """The four files of MNIST or one of its kin: a header of big-endian numbers, then bytes. Returns their folder."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, n in {"train": TRAIN, "t10k": TEST}.items():
        contents = {
            "images-idx3-ubyte": (b"\0\0\x08\x03", [n, 28, 28], generator.integers(0, 256, (n, 28, 28))),
            "labels-idx1-ubyte": (b"\0\0\x08\x01", [n], np.arange(n) % 10),
        }
        for kind, (magic, shape, values) in contents.items():
            data = magic + np.array(shape, ">i4").tobytes() + values.astype(np.uint8).tobytes()
            file = folder / f"{split}-{kind}"
            file.write_bytes(data)
            if compressed:
                file.with_suffix(".gz").write_bytes(gzip.compress(data))
    return folder


def write_cifar(root: Path, name: str = "CIFAR10") -> dict[str, object]:
    """The batches of CIFAR-10 or CIFAR-100. Returns the attributes of torchvision's class that hold their checksums."""
    dataset = getattr(torchvision.datasets, name)
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def write(file: str, value: dict[str, object]) -> list[str]:
        data = pickle.dumps(value)
        (folder / file).write_bytes(data)
        return [file, hashlib.md5(data).hexdigest()]

    def batch(file: str, n: int) -> list[str]:
        classes = 100 if name == "CIFAR100" else 10
        labels = "fine_labels" if name == "CIFAR100" else "labels"
        pixels = generator.integers(0, 256, (n, 3072), dtype=np.uint8)
        return write(file, {"data": pixels, labels: [i % classes for i in range(n)]})

    train = [batch(file, TRAIN // len(dataset.train_list)) for file, _ in dataset.train_list]
    test = [batch(file, TEST) for file, _ in dataset.test_list]
    key = dataset.meta["key"]
    file, md5 = write(dataset.meta["filename"], {key: [str(i) for i in range(100 if name == "CIFAR100" else 10)]})
    return {"train_list": train, "test_list": test, "meta": {"filename": file, "key": key, "md5": md5}}
