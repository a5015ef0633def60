"""Data sets as they were published: files in a folder, read and downloaded by torchvision's own classes."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from filelock import FileLock
from jaxtyping import Int64, UInt8
from torch import Tensor
from torchvision.datasets.utils import calculate_md5

from xent.errors import BadInput

NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")


class Images(NamedTuple):
    """One split of a data set, on the CPU; the labels count from 0 to `classes - 1`."""

    images: UInt8[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]
    classes: int


@lru_cache
def read(name: str, root: Path) -> tuple[Images, Images]:
    """The training and the test split, downloaded into `root` if they are not there. Read once a process.

    Args:
        name: a class of torchvision.datasets, one of `NAMES`.
        root: the folder that holds the data sets, each in a folder of its own.

    Raises:
        BadInput: no such data set; a file is damaged; a file is missing and cannot be downloaded.
    """
    if name not in NAMES:
        raise BadInput(f"data.dataset={name}: expected one of {', '.join(NAMES)}")
    dataset = getattr(torchvision.datasets, name)
    archives, unpacked = _files(dataset, root)
    try:
        with _one_at_a_time(root):
            _check_undamaged(archives | unpacked)
            return _images(dataset(root, train=True, download=True)), _images(dataset(root, train=False))
    except BadInput:
        raise
    except Exception as error:  # a failed download, a short file: torchvision raises many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        if all(file.exists() for file in unpacked):
            raise BadInput(f"{name} in {root} cannot be read ({reason}): delete its folder and run again") from error
        absent = [file for file in archives if not file.exists()] or list(archives)
        raise BadInput(
            f"{name} is not in {root} and could not be downloaded ({reason}): "
            f"put {', '.join(file.name for file in absent)} into {absent[0].parent}"
        ) from error


def _images(split: Any) -> Images:
    """What one of torchvision's data sets holds."""
    if isinstance(split.data, Tensor):  # MNIST and its kin: [n, height, width]
        return Images(split.data.unsqueeze(1), split.targets, len(split.classes))
    images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()  # CIFAR: [n, height, width, channels]
    return Images(images, torch.tensor(split.targets), len(split.classes))


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Keep other processes out while files are downloaded or unpacked, lest they see one half done."""
    lock = FileLock(root / ".lock")
    with suppress(OSError):  # a folder that can only be read: nothing is unpacked there
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _files(dataset: Any, root: Path) -> tuple[dict[Path, str], dict[Path, str]]:
    """The files of a data set as published and as unpacked, with their MD5, "" where torchvision knows none."""
    if issubclass(dataset, torchvision.datasets.MNIST):
        archives = {root / dataset.__name__ / "raw" / file: md5 for file, md5 in dataset.resources}
        return archives, {file.with_suffix(""): "" for file in archives}
    files = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    return {root / dataset.filename: dataset.tgz_md5}, {root / dataset.base_folder / file: md5 for file, md5 in files}


def _check_undamaged(files: dict[Path, str]) -> None:
    """Hold files that are there against their published MD5, or against the CRC-32 in the .gz they came from.

    torchvision checks MNIST's archives only before it unpacks them, and what it unpacked never.
    """
    for file, md5 in files.items():
        archive = file.with_name(f"{file.name}.gz")
        if not file.exists():
            continue
        if md5 and (found := calculate_md5(file)) != md5:
            raise BadInput(f"{file} is damaged: its MD5 is {found}, published was {md5}; delete it and get it again")
        if archive.exists() and zlib.crc32(file.read_bytes()) != _crc(archive):
            raise BadInput(f"{file} is not what {archive.name} holds: delete it, it will be unpacked again")


def _crc(archive: Path) -> int:
    """The CRC-32 of what a .gz holds (RFC 1952, section 2.3.1)."""
    return int.from_bytes(archive.read_bytes()[-8:-4], "little")
