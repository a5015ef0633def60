"""What training costs beyond its arithmetic: python -m benchmarks.training [device=cuda]

The same steps on MNIST in several ways, over the time of the first:

- floor: on one batch, with nothing else, for a third of an epoch;
- fit: an epoch as `python train.py` runs it, with its data, TensorBoard events, parity and trace, by each loss;
- DataLoader: fed as tutorials do, by torchvision's data set, `ToTensor` and `Normalize`, with 0 workers and with 2,
  which stay alive from round to round, for a few steps.

The evaluation of the 10,000 test images, which ends an epoch, is timed apart.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

import xent
from benchmarks.measure import CONSOLE, PROJECT, Work, device, interleaved, ratio, table, typical
from xent import models
from xent.config import Data
from xent.data import Split, batches, load
from xent.schedule import one_cycle
from xent.tensorboard import RunLog
from xent.trace import Trace
from xent.training import PROBE, evaluate, fit

MODELS = {
    "mlp": partial(models.mlp, width=128),
    "cnn": partial(models.cnn, width=24),
    "resnet": partial(models.resnet, width=16),  # for benchmarks.switches
}
FLOOR, LOADED = 156, 20  # steps of the floor and with a DataLoader
ROUNDS = 5
LOSSES = {"torch": nn.CrossEntropyLoss, "scratch": xent.CrossEntropyLoss, "fused": xent.FusedCrossEntropyLoss}
MNIST = Data("MNIST", str(PROJECT / "data"), mean=[0.1307], std=[0.3081])
BATCH = 128


def made(name: str, split: Split) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer, as train.py sets them up; the same weights each time."""
    torch.manual_seed(0)
    model = MODELS[name](split.shape, split.classes)
    model = model.to(split.labels.device, memory_format=torch.channels_last)
    parameters = model.parameters()
    return model, torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


def plain(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fed: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> None:
    """A training loop with nothing in it but what `fed` does to make a batch."""
    on = next(model.parameters()).device
    for images, target in fed:
        value = loss(model(images.to(on)), target.to(on))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def fitted(name: str, train: Split, test: Split, loss: str) -> None:
    model, optimizer = made(name, train)
    steps = train.steps_per_epoch(BATCH)
    trace = Trace({}, torch.full((steps,), torch.nan, device=train.labels.device))
    with tempfile.TemporaryDirectory() as folder, RunLog(Path(folder), {}) as log:
        given = {"batch_size": BATCH, "seed": 0, "log_every": 20, "reference": nn.CrossEntropyLoss(), "log": log.write}
        fit(model, LOSSES[loss](), optimizer, one_cycle(optimizer, steps), train, test, trace, **given)


def ways(name: str, train: Split, test: Split) -> dict[str, tuple[int, Work]]:
    """The ways to make steps, by name: how many, and the work of them."""
    epoch = train.steps_per_epoch(BATCH)
    batch = next(batches(train, BATCH, seed=0, steps=1))
    probe = replace(test, images=test.images[:PROBE], labels=test.labels[:PROBE])
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MNIST.mean, MNIST.std)])
    dataset = Subset(datasets.MNIST(MNIST.root, transform=transform), range(LOADED * BATCH))
    loaders = {n: DataLoader(dataset, BATCH, shuffle=True, num_workers=n, persistent_workers=n > 0) for n in (0, 2)}
    model, _ = made(name, train)
    return (
        {"floor": (FLOOR, lambda: plain(*made(name, train), repeat(batch, FLOOR)))}
        | {f"fit, {loss}": (epoch, partial(fitted, name, train, probe, loss)) for loss in LOSSES}
        | {"evaluation": (epoch, lambda: evaluate(model, test))}
        | {
            f"DataLoader, {n} workers": (LOADED, lambda fed=fed: plain(*made(name, train), fed))
            for n, fed in loaders.items()
        }
    )


def main() -> None:
    on = device()
    train, test = load(MNIST, on, torch.float32)
    result = table("Training, time over the floor", "model", "what", "ms a step", "ratio", "over fit, torch", on=on)
    for name in ("mlp", "cnn"):
        all_ways = ways(name, train, test)
        for way, (_, work) in all_ways.items():
            if not way.startswith("fit"):  # the model is warm then, and an epoch takes long
                work()
        timed = interleaved({way: work for way, (_, work) in all_ways.items()}, ROUNDS)
        rounds = [{way: duration / all_ways[way][0] for way, duration in each.items()} for each in timed]
        for way in all_ways:
            figures = ratio(rounds, way, "floor"), ratio(rounds, way, "fit, torch")
            result.add_row(name, way, f"{typical(rounds, way) * 1e3:.3f}", *(f"{figure:.3f}" for figure in figures))
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
