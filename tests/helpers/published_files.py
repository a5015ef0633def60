"""Small data sets of random pixels as they were published, and torchvision's attributes of their checksums."""

import gzip
import hashlib
import pickle
import tarfile
from functools import cache
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
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    generator, resources = np.random.default_rng(0), []
    for (file, _), count in zip(getattr(torchvision.datasets, name).resources, (TRAIN, TRAIN, TEST, TEST)):
        images, labels = generator.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        magic, values = (b"\0\0\x08\x03", images) if "images" in file else (b"\0\0\x08\x01", labels)
        content = gzip.compress(magic + np.array(values.shape, ">i4").tobytes() + values.tobytes())
        (folder / file).write_bytes(content)
        resources.append((file, hashlib.md5(content).hexdigest()))
    return {"resources": resources}


def write_cifar(root: Path, name: str = "CIFAR10") -> dict[str, Any]:
    """The archive of CIFAR-10 or CIFAR-100: pickled batches, and the names of the classes."""
    dataset = getattr(torchvision.datasets, name)
    classes, labels = (100, "fine_labels") if name == "CIFAR100" else (10, "labels")
    generator = np.random.default_rng(0)
    counts = {file: TRAIN // len(dataset.train_list) for file, _ in dataset.train_list}
    files: dict[str, Any] = {dataset.meta["filename"]: {dataset.meta["key"]: [str(i) for i in range(classes)]}}
    for file, count in (counts | {file: TEST for file, _ in dataset.test_list}).items():
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        files[file] = {"data": pixels, labels: [i % classes for i in range(count)]}
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / dataset.filename, "w:gz") as archive:
        for file, value in files.items():
            member, content = tarfile.TarInfo(f"{dataset.base_folder}/{file}"), pickle.dumps(value)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return {"tgz_md5": hashlib.md5((root / dataset.filename).read_bytes()).hexdigest()}


def shorten_mnist(monkeypatch: pytest.MonkeyPatch, train: int = 2000, test: int = 300) -> None:
    """Let runs train on the first images, and test on the first of the others."""
    read = cache(datasets.read)

    def first(name: str, root: Path) -> tuple[datasets.Images, ...]:
        splits = zip(read(name, root), (train, test))
        return tuple(datasets.Images(split.images[:n], split.labels[:n], split.classes) for split, n in splits)

    monkeypatch.setattr(datasets, "read", first)
