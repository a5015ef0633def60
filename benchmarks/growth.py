"""How time and memory grow: python -m benchmarks.growth [device=cuda]

Microseconds an image of training as `fit` runs it (mlp, loss=scratch, 15,000 images of MNIST's size), against the size
of the data set that these are drawn from, of the batch and the number of classes; and of drawing the order of an epoch,
which precedes its first batch. The peak of memory, in multiples of the bytes of the images, each in a process of its
own. A million images and more are black, in a file without blocks that is mapped into memory.
"""

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch

import xent
from benchmarks.measure import CONSOLE, interleaved, measured_device, table, typical
from benchmarks.training import MNIST
from xent.recording import Recorder
from xent.training import models
from xent.training.data import Split, batches
from xent.training.datasets import load
from xent.training.loop import Training, fit

ROUNDS = 5
PIXELS = 28 * 28
USUAL = {"images": 15_000, "batch": 128, "classes": 10}
GROWN = {
    "images": (15_000, 60_000, 1_000_000, 10_000_000),
    "batch": (32, 128, 512, 2048),
    "classes": (10, 100, 1000),
}
MAPPED = 1_000_000  # images, and more
MEMORY = (60_000, 240_000, 10_000_000)


def synthetic(images: int, classes: int, device: torch.device) -> Split:
    """Images of noise, or, if they are many, black ones from a file, with labels that mean nothing."""
    if images < MAPPED:
        pixels = torch.empty(images, 1, 28, 28, dtype=torch.uint8, device=device).random_()
    else:
        with NamedTemporaryFile() as file:
            file.truncate(images * PIXELS)
            mapped = torch.from_file(file.name, shared=True, size=images * PIXELS, dtype=torch.uint8)
        pixels = mapped.view(images, 1, 28, 28).to(device)
    labels = torch.randint(classes, (images,), device=device)
    middle = torch.full((1, 1, 1), 127.5, device=device)
    return Split(pixels, labels, classes, middle, middle)


def steps_of(batch: int) -> int:
    return USUAL["images"] // batch


def train(split: Split, batch: int) -> None:
    """Train on 15,000 images of the split, or, if that is no number of whole batches, on a few less."""
    model = models.mlp(split.shape, split.classes, width=128).to(split.labels.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    steps = steps_of(batch)
    test = synthetic(256, split.classes, split.labels.device)
    training = Training(model, xent.CrossEntropyLossFromScratch(), optimizer, Recorder(steps=steps), batch, seed=0)
    fit(training, split, test, log_every=20)


def first_batch(split: Split, batch: int) -> None:
    """That of an epoch, before which its order is drawn."""
    next(batches(split, batch, seed=0, steps=1))


def peak() -> int:
    """The most bytes that this process has held: on an accelerator of its memory, else resident (on Linux)."""
    if measured_device().type != "cpu":
        return torch.accelerator.max_memory_allocated()
    # not resource.getrusage: its maximum includes the process that started this one
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0])


def memory_of_training(images: int) -> float:
    """The growth of the peak by making so many images and training on some of them, over the bytes of all."""
    device = measured_device()
    train(synthetic(USUAL["images"], 10, device), batch=128)
    before = peak()
    train(synthetic(images, 10, device), batch=128)
    return (peak() - before) / (images * PIXELS)


def memory_of_load(images: int) -> float:
    """The growth of the peak by loading MNIST from its files, over the bytes of its images."""
    device = measured_device()
    train(synthetic(USUAL["images"], 10, device), batch=128)
    before = peak()
    load(MNIST, device, torch.float32)
    return (peak() - before) / (images * PIXELS)


def main() -> None:
    device = measured_device()
    columns = "what grows", "to", "us an image", "us an image's place in the order of an epoch"
    times = table("Time of training", *columns, device=device)
    for what, sizes in GROWN.items():
        for size in sizes:  # one at a time: all together may be more than the memory of a GPU
            images, batch, classes = (USUAL | {what: size}).values()
            split = synthetic(images, classes, device)
            works = {"training": partial(train, split, batch), "order": partial(first_batch, split, batch)}
            train(split, batch)  # warms up
            rounds = interleaved(works, ROUNDS)
            order = typical(rounds, "order")
            image = (typical(rounds, "training") - order) / (steps_of(batch) * batch)
            times.add_row(what, f"{size:,}", f"{image * 1e6:.2f}", f"{order / images * 1e6:.3f}")
    CONSOLE.print(times)

    peaks = table("Peak of memory over the bytes of the images", "images", "what", "ratio", device=device)
    for images in MEMORY:
        peaks.add_row(f"{images:,}", "training", f"{alone(memory_of_training, images):.2f}")
    peaks.add_row("70,000", "loading MNIST", f"{alone(memory_of_load, 70_000):.2f}")
    CONSOLE.print(peaks)


def alone(measure: Callable[[int], float], images: int) -> float:
    """A measurement in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, images).result()


if __name__ == "__main__":
    main()
