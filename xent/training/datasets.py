"""Data sets as they were published, files that torchvision's own classes read and download, as splits on the device."""

import shutil
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import inf
from os.path import exists  # which is no error where one may not look
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torchvision
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import pad
from torchvision.datasets.utils import calculate_md5

from xent.recording.errors import BadInput
from xent.training.data import Split

NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")
# Of what was published. (The files of CIFAR are always held to the MD5 that was published too.)
PUBLISHED = {"MNIST": "383e4bd5b34cb6df", "FashionMNIST": "119ac6480f7935ad"}


@dataclass
class Data:
    """One of torchvision's data sets. `mean` and `std` are a channel's, of pixels between 0 and 1."""

    dataset: str
    root: str
    mean: list[float]
    std: list[float]
    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if not all(0 < value < inf for value in self.std):
            raise BadInput(f"data.std={self.std}: expected positive numbers")
        if self.crop_padding < 0:
            raise BadInput(f"data.crop_padding={self.crop_padding}: expected a whole number of at least 0")


class Images(NamedTuple):
    """One split of a data set, on the CPU: uint8 `[n, channels, height, width]`, and int64 `[n]` below `classes`."""

    images: Tensor
    labels: Tensor
    classes: int


def load(data: Data, device: torch.device, dtype: torch.dtype) -> tuple[Split, Split]:
    """The training and the test split on a device, with batches of `dtype`. BadInput if they cannot be read."""
    train, test, content = read(data.dataset, Path(data.root))
    channels = train.images.shape[1]
    for key, values in {"data.mean": data.mean, "data.std": data.std}.items():
        if len(values) != channels:
            raise BadInput(f"{key}={values}: {data.dataset} has {channels} channels, expected a value for each")

    mean, std = (255 * torch.tensor(v, dtype=dtype)[:, None, None].to(device) for v in (data.mean, data.std))

    def split(of: Images, crop_padding: int = 0, flip: bool = False) -> Split:
        images = pad(of.images, [crop_padding] * 4) if crop_padding else of.images  # spares a copy of all images
        return Split(images.to(device), of.labels.to(device), of.classes, mean, std, crop_padding, flip, content)

    return split(train, data.crop_padding, data.flip), split(test)


def fingerprint(*splits: Images) -> str:
    """Of all images and labels, 16 hexadecimal digits."""
    digest = blake2b(digest_size=8)
    for split in splits:
        for tensor in (split.images, split.labels):
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


@lru_cache
def read(name: str, root: Path) -> tuple[Images, Images, str]:
    """The training and the test split, and their fingerprint. They are downloaded into `root` if they are not there.

    Read once a process. Where `root` can only be read, archives are unpacked elsewhere, and forgotten.

    BadInput if it is none of `NAMES`, classes of torchvision.datasets, or a file is damaged, or missing and cannot be
    downloaded.
    """
    if name not in NAMES:
        raise BadInput(f"data.dataset={name}: expected one of {', '.join(NAMES)}")
    dataset = getattr(torchvision.datasets, name)
    archives, unpacked = _files(dataset, root)
    try:
        with ExitStack() as until_read:  # lest another process see files that are downloaded or unpacked half done
            place = root
            try:
                root.mkdir(parents=True, exist_ok=True)
                until_read.enter_context(FileLock(root / ".lock"))
            except OSError:  # it can only be read, so nothing is unpacked there
                if all(map(exists, archives)) and not all(map(exists, unpacked)):
                    place = _copied(archives, root, Path(until_read.enter_context(TemporaryDirectory())))
            _check_undamaged(archives | unpacked)
            splits = _images(dataset(place, train=True, download=True)), _images(dataset(place, train=False))
            return *splits, fingerprint(*splits)
    except BadInput:
        raise
    except Exception as error:  # a failed download, a short file: torchvision raises many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        if all(map(exists, unpacked)):
            raise BadInput(f"{name} in {root} cannot be read ({reason}): delete its folder and run again") from error
        absent = [file for file in archives if not exists(file)] or list(archives)
        raise BadInput(
            f"{name} is not in {root} and could not be downloaded ({reason}): "
            f"put {', '.join(file.name for file in absent)} into {absent[0].parent}"
        ) from error


def _copied(files: Iterable[Path], root: Path, place: Path) -> Path:
    """Another folder with the files that are somewhere in `root`."""
    for file in files:
        copy = place / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return place


def _images(split: Any) -> Images:
    """What one of torchvision's data sets holds."""
    if isinstance(split.data, Tensor):  # MNIST and its kin: [n, height, width]
        return Images(split.data.unsqueeze(1), split.targets, len(split.classes))
    images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()  # CIFAR: [n, height, width, channels]
    return Images(images, torch.tensor(split.targets), len(split.classes))


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
        if not exists(file):
            continue
        if md5 and (found := calculate_md5(file)) != md5:
            raise BadInput(f"{file} is damaged: its MD5 is {found}, published was {md5}; delete it and get it again")
        crc = archive.exists() and int.from_bytes(archive.read_bytes()[-8:-4], "little")  # RFC 1952, section 2.3.1
        if archive.exists() and zlib.crc32(file.read_bytes()) != crc:
            raise BadInput(f"{file} is not what {archive.name} holds: delete it, it will be unpacked again")
