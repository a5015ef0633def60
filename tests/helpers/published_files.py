"""Small data sets in the archives that were published, written with random pixels.

Each function returns the attributes of torchvision's class that name the archives and their checksums.
"""

import gzip
import hashlib
import pickle
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from xent.training import datasets

TRAIN, TEST = 300, 270  # images of each split; the probe wants 256


def write_mnist(root: Path, name: str = "MNIST") -> dict[str, Any]:
    """The four files of MNIST or one of its kin: a header of big-endian numbers, then bytes."""
    dataset = getattr(torchvision.datasets, name)
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    resources = []
    for (file, _), count in zip(dataset.resources, (TRAIN, TRAIN, TEST, TEST)):
        if "images" in file:
            magic, shape, values = b"\0\0\x08\x03", [count, 28, 28], generator.integers(0, 256, (count, 28, 28))
        else:
            magic, shape, values = b"\0\0\x08\x01", [count], np.arange(count) % 10
        content = gzip.compress(magic + np.array(shape, ">i4").tobytes() + values.astype(np.uint8).tobytes())
        (folder / file).write_bytes(content)
        resources.append((file, hashlib.md5(content).hexdigest()))
    return {"resources": resources}


def write_cifar(root: Path, name: str = "CIFAR10") -> dict[str, Any]:
    """The archive of CIFAR-10 or CIFAR-100: pickled batches, and the names of the classes."""
    dataset = getattr(torchvision.datasets, name)
    classes, labels = (100, "fine_labels") if name == "CIFAR100" else (10, "labels")
    generator = np.random.default_rng(0)

    def batch(count: int) -> dict[str, Any]:
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, labels: [i % classes for i in range(count)]}

    files: dict[str, Any] = {file: batch(TRAIN // len(dataset.train_list)) for file, _ in dataset.train_list}
    files |= {file: batch(TEST) for file, _ in dataset.test_list}
    files[dataset.meta["filename"]] = {dataset.meta["key"]: [str(i) for i in range(classes)]}
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / dataset.filename, "w:gz") as archive:
        for file, value in files.items():
            content = pickle.dumps(value)
            member = tarfile.TarInfo(f"{dataset.base_folder}/{file}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return {"tgz_md5": hashlib.md5((root / dataset.filename).read_bytes()).hexdigest()}


def shorten_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs train on the first 2,000 images, and test on the first 300."""
    read = datasets.read

    def first(name: str, root: Path) -> tuple[datasets.Images, ...]:
        splits = zip(read(name, root), (2000, 300))
        return tuple(datasets.Images(split.images[:n], split.labels[:n], split.classes) for split, n in splits)

    monkeypatch.setattr(datasets, "read", first)
