"""What training costs beyond its arithmetic: python -m benchmarks.training [device=cuda]

The same steps on MNIST in several variants, over the time of the first:

- floor: on one batch, with nothing else, for a third of an epoch;
- fit: an epoch as `python train.py` runs it, with its data, TensorBoard events, parity and trace, by each loss;
- DataLoader: batches as tutorials make them, by torchvision's data set, `ToTensor` and `Normalize`, with 0 workers and
  with 2, which stay alive from round to round, for a few steps.

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
from benchmarks.measure import CONSOLE, PROJECT, Rounds, Work, interleaved, measured_device, ratio, table, typical
from xent.recording import Recorder
from xent.runs.event_file import RunLog
from xent.training import models
from xent.training.data import Split, batches
from xent.training.datasets import Data, load
from xent.training.evaluation import PROBE, evaluate
from xent.training.loop import Callbacks, Training, fit
from xent.training.parity import scalars

MODELS = {
    "mlp": partial(models.mlp, width=128),
    "cnn": partial(models.cnn, width=24),
    "resnet": partial(models.resnet, width=16),  # for other benchmarks
}
FLOOR, LOADED = 156, 20  # steps of the floor and with a DataLoader
ROUNDS = 5
LOSSES = {
    "torch": nn.CrossEntropyLoss,
    "scratch": xent.CrossEntropyLossFromScratch,
    "fused": xent.FusedCrossEntropyLoss,
}
MNIST = Data("MNIST", str(PROJECT / "data"), mean=[0.1307], std=[0.3081])
BATCH = 128


def model_and_optimizer(name: str, split: Split) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer, as train.py sets them up; the same weights each time."""
    torch.manual_seed(0)
    model = MODELS[name](split.shape, split.classes)
    model = model.to(split.labels.device, memory_format=torch.channels_last)
    parameters = model.parameters()
    return model, torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


def plain(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> None:
    """A training loop with nothing in it but what `loader` does to make a batch."""
    device = next(model.parameters()).device
    for images, target in loader:
        value = loss(model(images.to(device)), target.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def fit_an_epoch(name: str, train: Split, test: Split, loss: str, steps: int | None = None) -> None:
    model, optimizer = model_and_optimizer(name, train)
    steps, reference = steps or train.steps_per_epoch(BATCH), nn.CrossEntropyLoss()
    training = Training(model, LOSSES[loss](), optimizer, Recorder(steps=steps), BATCH, seed=0)
    with tempfile.TemporaryDirectory() as folder, RunLog(Path(folder), {}) as events:
        callbacks = Callbacks(lambda step: events.write(step.number, scalars(step, model, reference)))
        fit(training, train, test, log_every=20, callbacks=callbacks)


def variants(name: str, train: Split, test: Split) -> dict[str, tuple[int, Work]]:
    """Ways to make steps, by name: how many, and the work of them."""
    epoch = train.steps_per_epoch(BATCH)
    batch = next(batches(train, BATCH, seed=0, steps=1))
    probe = replace(test, images=test.images[:PROBE], labels=test.labels[:PROBE])
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MNIST.mean, MNIST.std)])
    dataset = Subset(datasets.MNIST(MNIST.root, transform=transform), range(LOADED * BATCH))
    model, _ = model_and_optimizer(name, train)
    found: dict[str, tuple[int, Work]] = {
        "floor": (FLOOR, lambda: plain(*model_and_optimizer(name, train), repeat(batch, FLOOR)))
    }
    for loss in LOSSES:
        found[f"fit, {loss}"] = epoch, partial(fit_an_epoch, name, train, probe, loss)
    found["evaluation"] = epoch, lambda: evaluate(model, test)
    for workers in (0, 2):
        loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        found[f"DataLoader, {workers} workers"] = (
            LOADED,
            lambda loader=loader: plain(*model_and_optimizer(name, train), loader),
        )
    return found


def measured(name: str, device: torch.device, rounds: int = ROUNDS, only: tuple[str, ...] = ()) -> Rounds:
    """Seconds of a step in each round of each variant, or of those named."""
    found = {
        each: work
        for each, work in variants(name, *load(MNIST, device, torch.float32)).items()
        if each in only or not only
    }
    for variant, (_, work) in found.items():
        if not variant.startswith("fit"):  # the model is warm then, and an epoch takes long
            work()
    timed = interleaved({variant: work for variant, (_, work) in found.items()}, rounds)
    return [{variant: time / found[variant][0] for variant, time in each.items()} for each in timed]


def main() -> None:
    device = measured_device()
    columns = "model", "what", "ms a step", "ratio", "over fit, torch"
    result = table("Training, time over the floor", *columns, device=device)
    for name in ("mlp", "cnn"):
        rounds = measured(name, device)
        for variant in rounds[0]:
            figures = ratio(rounds, variant, "floor"), ratio(rounds, variant, "fit, torch")
            milliseconds = typical(rounds, variant) * 1e3
            result.add_row(name, variant, f"{milliseconds:.3f}", *(f"{figure:.3f}" for figure in figures))
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
