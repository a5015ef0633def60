"""Seconds of training to 99 % on MNIST with the loss from scratch: python -m benchmarks.accuracy [device=cuda]

As configs/experiment/fast.yaml has it. Seconds are those from the first event of a run to its last, the evaluation
included. Beside them, on the same machine in the same minutes: PyTorch's own example (mnist/main.py of
pytorch/examples), which reaches 99.03 % after four epochs. Some of its steps and some of its evaluation are timed,
before and after ours, and multiplied.

With `parts=16`, the recipe with each of its parts as by default instead, over sixteen seeds.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median, stdev

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from benchmarks.measure import CONSOLE, measured_device, option, run_seconds, seconds, table, train
from benchmarks.training import MNIST
from xent.runs.traces import load_runs

SEEDS = range(5)
OURS = "+experiment=fast", "loss=scratch"
BY_DEFAULT = "optimizer.lr=0.2", "loss.label_smoothing=0", "first_filters=drawn", "warm_up=0.2"
PARTS: tuple[tuple[str, ...], ...] = (
    (),
    ("optimizer.lr=0.2",),
    ("loss.label_smoothing=0",),
    ("first_filters=drawn",),
    ("warm_up=0.2",),
    ("model.width=24",),
    ("batch_size=256", "max_steps=260"),
    ("max_steps=468",),
    ("max_steps=936",),
    (*BY_DEFAULT, "max_steps=936"),  # of the recipe, the width alone
)
EXAMPLE_EPOCHS, EXAMPLE_BATCH, EXAMPLE_TEST_BATCH = 4, 64, 1000
TIMED = 20  # batches to train on, and a twentieth of them to evaluate


def example_seconds() -> float:
    """How long PyTorch's example takes: its network, optimizer and data loader, in our words."""
    device = measured_device()
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1)),
    ).to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MNIST.mean, MNIST.std)])
    splits = [datasets.MNIST(MNIST.root, train=part, transform=transform, download=True) for part in (True, False)]

    def train_on(loader: Iterable[tuple[Tensor, Tensor]]) -> None:
        model.train()
        for images, target in loader:
            optimizer.zero_grad()
            nll_loss(model(images.to(device)), target.to(device)).backward()
            optimizer.step()

    @torch.no_grad()
    def evaluate_on(loader: Iterable[tuple[Tensor, Tensor]]) -> None:
        model.eval()
        for images, target in loader:
            nll_loss(model(images.to(device)), target.to(device), reduction="sum").item()

    total = 0.0
    batches = EXAMPLE_BATCH, EXAMPLE_TEST_BATCH
    for split, work, batch, timed in zip(splits, (train_on, evaluate_on), batches, (TIMED, TIMED // 20)):
        loader = DataLoader(Subset(split, range(timed * batch)), batch, shuffle=work is train_on)
        work([next(iter(loader))])  # warms up
        total += EXAMPLE_EPOCHS * seconds(lambda work=work, loader=loader: work(loader)) * len(split) / (timed * batch)
    return total


def ours(seeds: range, *overrides: str) -> tuple[int, list[float], float]:
    """Steps of ours, the accuracy of every seed, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        swept = f"seed={','.join(map(str, seeds))}", f"hydra.sweep.dir={folder}", "~hydra.callbacks.compare"
        train("-m", *OURS, *overrides, *swept)
        runs = load_runs([Path(folder)])
        return runs[0].step, [run.tests[run.step][1] for run in runs], median(run_seconds(run.folder) for run in runs)


def measured() -> tuple[int, list[float], float, float]:
    """Steps of ours, the accuracy of every seed, and the seconds of ours and of PyTorch's example."""
    before = example_seconds()
    return *ours(SEEDS), mean([before, example_seconds()])


def print_parts(seeds: range) -> None:
    columns = "+experiment=fast", "steps", "mean accuracy", "standard error", "seconds"
    result = table(f"Parts of the recipe, {len(seeds)} seeds", *columns, device=measured_device())
    for overrides in PARTS:
        steps, accuracies, duration = ours(seeds, *overrides)
        found = mean(accuracies), stdev(accuracies) / len(seeds) ** 0.5
        changed = " ".join(overrides) or "as it is"
        result.add_row(changed, str(steps), *(f"{each:.2%}" for each in found), f"{duration:.2f}")
    CONSOLE.print(result)


def main() -> None:
    if seeds := int(option("parts", "0")):
        return print_parts(range(max(2, seeds)))
    columns = "command", "steps", "mean accuracy", "smallest", "seconds", "PyTorch's example", "ratio"
    result = table(f"99 % of MNIST, {len(SEEDS)} seeds", *columns, device=measured_device())
    steps, accuracies, duration, example = measured()
    found = f"{mean(accuracies):.2%}", f"{min(accuracies):.2%}", f"{duration:.1f}", f"{example:.0f}"
    command = f"python train.py {' '.join(OURS)}"
    result.add_row(command, str(steps), *found, f"{example / duration:.0f}")
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
