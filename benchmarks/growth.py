"""How time and memory grow: python -m benchmarks.growth [device=cuda]

Microseconds an image of an epoch as `fit` runs it (mlp, loss=scratch, images of noise of MNIST's size), against the
size of the data set, of the batch and the number of classes. The peak of memory during an epoch, in multiples of the
bytes of the images, each in a process of its own.
"""

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

import xent
from benchmarks.measure import CONSOLE, interleaved, measured_device, table, typical
from benchmarks.training import MNIST
from xent.recording import Recorder
from xent.training import models
from xent.training.data import Split
from xent.training.datasets import load
from xent.training.loop import Training, fit

ROUNDS = 5
PIXELS = 28 * 28
USUAL = {"images": 15_000, "batch": 128, "classes": 10}
GROWN = {"images": (15_000, 60_000), "batch": (32, 128, 512, 2048), "classes": (10, 100, 1000)}
MEMORY = (60_000, 240_000)


def noise(images: int, classes: int, device: torch.device) -> Split:
    """Images of noise, with labels that mean nothing."""
    pixels = torch.empty(images, 1, 28, 28, dtype=torch.uint8, device=device).random_()
    labels = torch.randint(classes, (images,), device=device)
    middle = torch.full((1, 1, 1), 127.5, device=device)
    return Split(pixels, labels, classes, middle, middle)


def epoch(split: Split, batch: int) -> None:
    """An epoch of training on the split, tested on its first images."""
    model = models.mlp(split.shape, split.classes, width=128).to(split.labels.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    steps = split.steps_per_epoch(batch)
    test = noise(256, split.classes, split.labels.device)
    training = Training(model, xent.CrossEntropyLossFromScratch(), optimizer, Recorder(steps=steps), batch, seed=0)
    fit(training, split, test, log_every=20)


def peak() -> int:
    """The most bytes that this process has held: on an accelerator of its memory, else resident (on Linux)."""
    if measured_device().type != "cpu":
        return torch.accelerator.max_memory_allocated()
    # not resource.getrusage: its maximum includes the process that started this one
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0])


def memory_of_epoch(images: int) -> float:
    """The growth of the peak by making and training on so many images, over their bytes."""
    device = measured_device()
    epoch(noise(10_000, 10, device), batch=128)
    before = peak()
    epoch(noise(images, 10, device), batch=128)
    return (peak() - before) / (images * PIXELS)


def memory_of_load(images: int) -> float:
    """The growth of the peak by loading MNIST from its files, over the bytes of its images."""
    device = measured_device()
    epoch(noise(10_000, 10, device), batch=128)
    before = peak()
    load(MNIST, device, torch.float32)
    return (peak() - before) / (images * PIXELS)


def main() -> None:
    device = measured_device()
    times = table("Time of an epoch", "what grows", "to", "us an image", device=device)
    for what, sizes in GROWN.items():
        variants = {}
        for size in sizes:
            settings = USUAL | {what: size}
            variants[str(size)] = partial(
                epoch, noise(settings["images"], settings["classes"], device), settings["batch"]
            )
            variants[str(size)]()  # warms up
        rounds = interleaved(variants, ROUNDS)
        for size in sizes:
            images = size if what == "images" else USUAL["images"]
            times.add_row(what, f"{size:,}", f"{typical(rounds, str(size)) / images * 1e6:.2f}")
    CONSOLE.print(times)

    peaks = table("Peak of memory over the bytes of the images", "images", "what", "ratio", device=device)
    for images in MEMORY:
        peaks.add_row(f"{images:,}", "an epoch", f"{alone(memory_of_epoch, images):.2f}")
    peaks.add_row("70,000", "loading MNIST", f"{alone(memory_of_load, 70_000):.2f}")
    CONSOLE.print(peaks)


def alone(measure: Callable[[int], float], images: int) -> float:
    """A measurement in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, images).result()


if __name__ == "__main__":
    main()
