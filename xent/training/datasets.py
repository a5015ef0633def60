"""Data sets as published: torchvision's archives, downloaded, read in memory, and put on the device as splits."""

import gzip
import pickle
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import pad
from torchvision.datasets.utils import check_integrity, download_url

from xent.recording.errors import BadInput, in_one_line
from xent.training.data import Split

MOST_PADDING = 32
NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")


@dataclass
class Data:
    """The settings of a data set, one of torchvision's.

    Attributes:
        dataset: its name, one of `NAMES`.
        root: the folder of its files.
        mean: the mean of each channel, of pixels between 0 and 1.
        std: their standard deviation, likewise.
        crop_padding: black pixels on every side of a training image, for random crops.
        flip: whether training images are mirrored at random.

    Raises:
        BadInput: `std` is not positive, or `crop_padding` negative or above MOST_PADDING.
    """

    dataset: str
    root: str
    mean: list[float]
    std: list[float]
    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if not all(0 < value < inf for value in self.std):
            raise BadInput(f"data.std={self.std}: expected positive numbers")
        if not 0 <= self.crop_padding <= MOST_PADDING:
            raise BadInput(f"data.crop_padding={self.crop_padding}: expected a whole number from 0 to {MOST_PADDING}")


class Images(NamedTuple):
    """One split of a data set, on the CPU.

    Attributes:
        images: uint8 `[n, channels, height, width]`.
        labels: int64 `[n]`, from 0 to `classes - 1`.
        classes: the number of classes.
    """

    images: Tensor
    labels: Tensor
    classes: int


def load(data: Data, device: torch.device, dtype: torch.dtype) -> tuple[Split, Split]:
    """Load the training and the test split of a data set onto a device.

    Args:
        dtype: of the batches.

    Raises:
        BadInput: they cannot be read, or `mean` or `std` has not one value per channel.
    """
    train, test = read(data.dataset, Path(data.root))
    channels = train.images.shape[1]
    for key, values in {"data.mean": data.mean, "data.std": data.std}.items():
        if len(values) != channels:
            raise BadInput(f"{key}={values}: {data.dataset} has {channels} channels, expected a value for each")
    mean, std = (255 * torch.tensor(v, dtype=dtype)[:, None, None].to(device) for v in (data.mean, data.std))

    def split(of: Images, crop_padding: int, flip: bool) -> Split:
        images = pad(of.images, [crop_padding] * 4) if crop_padding else of.images  # pad would copy all images
        return Split(images.to(device), of.labels.to(device), of.classes, mean, std, crop_padding, flip)

    return split(train, data.crop_padding, data.flip), split(test, 0, False)


@lru_cache
def read(name: str, root: Path) -> tuple[Images, Images]:
    """Read the training and the test split, downloaded into `root` if they are missing; once per process.

    Raises:
        BadInput: the name is none of `NAMES`, or an archive is damaged, or missing and cannot be downloaded.
    """
    if name not in NAMES:
        raise BadInput(f"data.dataset={name}: expected one of {', '.join(NAMES)}")
    dataset = getattr(torchvision.datasets, name)
    return _read_mnist(dataset, root) if issubclass(dataset, torchvision.datasets.MNIST) else _read_cifar(dataset, root)


def _read_mnist(dataset: Any, root: Path) -> tuple[Images, Images]:
    """MNIST, or a data set in its format: per split a file of images `[n, height, width]` and one of labels `[n]`."""
    folder, classes = root / dataset.__name__ / "raw", len(dataset.classes)
    parts = [_parse_idx(_archive(folder / file, md5, dataset.mirrors[0] + file)) for file, md5 in dataset.resources]
    train, test = (Images(parts[i].unsqueeze(1), parts[i + 1].long(), classes) for i in (0, 2))
    return train, test


def _parse_idx(archive: bytes) -> Tensor:
    """Bytes in the IDX format: two zeros, the type, the number of dimensions, their sizes, the elements."""
    content = gzip.decompress(archive)
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape).copy())


def _read_cifar(dataset: Any, root: Path) -> tuple[Images, Images]:
    """CIFAR-10 or CIFAR-100: one archive of pickled batches, whose checksum makes them safe to load."""
    archive = _archive(root / dataset.filename, dataset.tgz_md5, dataset.url)
    with tarfile.open(fileobj=BytesIO(archive)) as files:

        def unpickled(file: str) -> dict[str, Any]:
            member: Any = files.extractfile(f"{dataset.base_folder}/{file}")
            return dict(pickle.loads(member.read(), encoding="latin1"))

        classes = len(unpickled(dataset.meta["filename"])[dataset.meta["key"]])
        splits = [[unpickled(file) for file, _ in split] for split in (dataset.train_list, dataset.test_list)]
    key = "fine_labels" if "fine_labels" in splits[0][0] else "labels"
    pixels = [np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32) for batches in splits]
    labels = [np.concatenate([batch[key] for batch in batches]) for batches in splits]
    train, test = (Images(torch.from_numpy(x), torch.from_numpy(y), classes) for x, y in zip(pixels, labels))
    return train, test


def _archive(file: Path, md5: str, url: str) -> bytes:
    """The content of a published file, downloaded if it is missing.

    Raises:
        BadInput: its MD5 is not the published one, or it can neither be read nor downloaded.
    """
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_name(".lock")):
                if not file.exists():  # another process may have; a file gets its name when it is whole
                    download_url(url, file.parent, f"{file.name}.part", md5)
                    file.with_name(f"{file.name}.part").replace(file)
        if not check_integrity(file, md5):
            raise BadInput(f"{file} is damaged: its MD5 is not {md5}, as published; delete it and get it again")
        return file.read_bytes()
    except (OSError, RuntimeError) as error:  # such as a failed download
        raise BadInput(f"{file} cannot be read or downloaded ({in_one_line(error)}): put it there") from error
