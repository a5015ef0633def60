"""What training costs beyond its arithmetic: python -m benchmarks.training [device=cuda] [steps=468] [rounds=5]

Steps of 128 images of MNIST, made in several ways that take turns:

- floor: forward, backward and optimizer alone, on one batch;
- fit: as `python train.py` makes them, with its data, TensorBoard events, parity and trace, by every loss;
- DataLoader: as tutorials make them, by torchvision's data set, `ToTensor` and `Normalize`, in this process.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from torchvision import datasets, transforms

import xent
from benchmarks.measure import CONSOLE, PROJECT, Rounds, arguments, deterministic, interleaved, ratio, table, typical
from xent.recording import Recorder
from xent.training import models
from xent.training.data import Split, batches
from xent.training.datasets import Data, load
from xent.training.diagnostics import scalars
from xent.training.loop import PROBE, Training, fit

MODELS = {"mlp": partial(models.mlp, width=128), "cnn": partial(models.cnn, width=24)}
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "torch": nn.CrossEntropyLoss,
    "scratch": xent.CrossEntropyLossFromScratch,
    "fused": xent.FusedCrossEntropyLoss,
}
MNIST = Data("MNIST", str(PROJECT / "data"), mean=[0.1307], std=[0.3081])
BATCH = 128
EPOCH, ROUNDS = 468, 5
LOADED = 20  # steps with a DataLoader, which takes long


def model_and_optimizer(name: str, split: Split) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer, as train.py sets them up; the same weights every time."""
    torch.manual_seed(0)
    model = MODELS[name](split.shape, split.classes)
    model = model.to(split.labels.device).to(memory_format=torch.channels_last)
    parameters = model.parameters()
    return model, torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


def plain_loop(name: str, split: Split, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Train in a loop with nothing in it but the arithmetic, and what `loader` does to make a batch."""
    model, optimizer = model_and_optimizer(name, split)
    device = split.labels.device
    for images, target in loader:
        loss = cross_entropy(model(images.to(device)), target.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fit_steps(name: str, train: Split, test: Split, loss: str, steps: int) -> None:
    """Train as train.py does, with TensorBoard events in a temporary folder."""
    model, optimizer = model_and_optimizer(name, train)
    reference = nn.CrossEntropyLoss()
    training = Training(model, LOSSES[loss](), optimizer, recorder := Recorder(steps=steps), BATCH, seed=0)
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        for step in fit(training, train, test, log_every=20):
            if step.is_logged:
                value = recorder.trace.losses[step.number - 1].item()
                for tag, scalar in scalars(step, value, model, reference).items():
                    writer.add_scalar(tag, scalar, step.number)


def tutorials_mnist() -> datasets.MNIST:
    """The training images as tutorials load them, unpacked into a temporary folder; held in memory."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MNIST.mean, MNIST.std)])
    with tempfile.TemporaryDirectory() as root:
        shutil.copytree(Path(MNIST.root, "MNIST"), Path(root, "MNIST"))
        return datasets.MNIST(root, transform=transform, download=True)


def measured(name: str, device: torch.device, steps: int = EPOCH, rounds: int = ROUNDS) -> Rounds:
    """Seconds a step of a model, in every round, for every way to make them."""
    train, test = load(MNIST, device, torch.float32)
    test = replace(test, images=test.images[:PROBE], labels=test.labels[:PROBE])
    batch = next(batches(train, BATCH, seed=0, steps=1))
    loaded = min(steps, LOADED)
    loader = DataLoader(Subset(tutorials_mnist(), range(loaded * BATCH)), BATCH, shuffle=True)
    ways = {"floor": partial(plain_loop, name, train, [batch] * steps)}
    ways |= {f"fit, {loss}": partial(fit_steps, name, train, test, loss, steps) for loss in LOSSES}
    ways["DataLoader"] = partial(plain_loop, name, train, loader)
    ways["floor"]()  # warms up
    counts = dict.fromkeys(ways, steps) | {"DataLoader": loaded}
    return [{way: time / counts[way] for way, time in times.items()} for times in interleaved(ways, rounds)]


def main() -> None:
    device_name, steps, rounds = arguments(device="cpu", steps=str(EPOCH), rounds=str(ROUNDS))
    device = deterministic(device_name)
    result = table("Training", "model", "way", "ms a step", "over the floor", "over fit, torch", device=device)
    for model in MODELS:
        times = measured(model, device, int(steps), int(rounds))
        for way in times[0]:
            ratios = (f"{ratio(times, way, to):.3f}" for to in ("floor", "fit, torch"))
            result.add_row(model, way, f"{typical(times, way) * 1e3:.3f}", *ratios)
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
