"""What a step on the CPU consists of, and a batch, and other ways to make batches: python -m benchmarks.step

Microseconds, as means over an epoch of the mlp on MNIST, loss=torch. What `fit` does beside this is to log.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import CONSOLE, Work, interleaved, ratio, table, typical
from benchmarks.training import BATCH, MNIST, model_and_optimizer
from xent.recording import Recorder
from xent.training.data import Split, batches
from xent.training.datasets import load
from xent.training.device import prepare
from xent.training.evaluation import PROBE, predict
from xent.training.schedule import one_cycle

ROUNDS, AT_ONCE = 9, 8


def parts_of_steps(train: Split, test: Split) -> dict[str, float]:
    """Seconds of a step by what they are spent on."""
    steps = train.steps_per_epoch(BATCH)
    model, optimizer = model_and_optimizer("mlp", train)
    loss, recorder, schedule = nn.CrossEntropyLoss(), Recorder(steps=steps), one_cycle(optimizer, steps)
    spent: dict[str, float] = defaultdict(float)
    drawn = batches(train, BATCH, 0, steps)
    begin = 0.0

    def until_now(part: str) -> None:
        nonlocal begin
        now = time.perf_counter()
        spent[part] += (now - begin) / steps
        begin = now

    for _ in range(steps):
        begin = time.perf_counter()
        batch = next(drawn)
        until_now("the batch")
        images, target = recorder.reorder(*batch)
        until_now("to see what batch it is")
        optimizer.zero_grad()
        value = loss(model(images), target)
        value.backward()
        optimizer.step()
        until_now("the arithmetic")
        schedule.step()
        until_now("the schedule")
        recorder.step(value, probe=lambda: predict(model, test, PROBE))
        until_now("the record, and its probes")
    return spent


def parts_of_a_batch(train: Split) -> dict[str, Work]:
    chosen = torch.randperm(len(train))[:BATCH].to(train.images.device)
    images = train.images.index_select(0, chosen)
    numbers = images.to(train.mean.dtype)
    made = torch.empty_like(numbers)
    return {
        "its images": lambda: train.images.index_select(0, chosen),
        "as floating-point numbers": lambda: images.to(train.mean.dtype),
        "minus the mean": lambda: torch.sub(numbers, train.mean, out=made),
        "by the standard deviation": lambda: torch.div(numbers, train.std, out=made),
    }


def ways_to_make_batches(train: Split) -> dict[str, Work]:
    """An epoch of images."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(train))).to(train.images.device)
    normalised = train.normalised(train.images)

    def in_order(images: Tensor) -> Iterator[Tensor]:
        return (train.normalised(each) for each in images.index_select(0, order).split(BATCH))

    def at_once() -> Iterator[Tensor]:
        for chosen in order.split(AT_ONCE * BATCH):
            yield from train.normalised(train.images.index_select(0, chosen)).split(BATCH)

    ways = {
        "one by one, as here": lambda: (
            train.normalised(train.images.index_select(0, chosen)) for chosen in order.split(BATCH)
        ),
        f"{AT_ONCE} at once": at_once,
        "all put in order at once": partial(in_order, train.images),
        "from normalised numbers": lambda: (normalised.index_select(0, each) for each in order.split(BATCH)),
    }
    return {name: lambda way=way: sum(batch.flatten()[0] for batch in way()) for name, way in ways.items()}


def main() -> None:
    device = prepare("cpu")
    train, test = load(MNIST, device, torch.float32)
    steps = table("Parts of a step", "what", "us", device=device)
    parts_of_steps(train, test)  # warms up
    for name, seconds in parts_of_steps(train, test).items():
        steps.add_row(name, f"{seconds * 1e6:.0f}")
    CONSOLE.print(steps)

    work = parts_of_a_batch(train)
    parts = table("Parts of a batch", "what", "us", device=device)
    rounds = interleaved(work, ROUNDS, dict.fromkeys(work, 400))
    for name in work:
        parts.add_row(name, f"{typical(rounds, name) * 1e6:.1f}")
    CONSOLE.print(parts)

    work = ways_to_make_batches(train)
    ways = table("Ways to make batches", "way", "us a batch", "ratio", device=device)
    rounds = interleaved(work, ROUNDS)
    for name in work:
        microseconds = typical(rounds, name) / train.steps_per_epoch(BATCH) * 1e6
        ways.add_row(name, f"{microseconds:.0f}", f"{ratio(rounds, name, 'one by one, as here'):.2f}")
    CONSOLE.print(ways)


if __name__ == "__main__":
    main()
