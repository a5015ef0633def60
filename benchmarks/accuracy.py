"""Seconds of training to 99 % on MNIST: python -m benchmarks.accuracy [device=cuda] [seeds=5] [parts=true]

The recipe is that of configs/experiment/fast.yaml, with the loss from scratch, over two seeds or more. Seconds are from
the first event of a run to its last, evaluation included. `parts=true` also trains with parts of it at their
defaults.

Beside it stands PyTorch's own example (mnist/main.py of pytorch/examples), which reaches 99.03 % after four epochs.
Some of its steps are timed, before the recipe and after it, and multiplied; its evaluation is left out.
"""

import tempfile
from pathlib import Path
from statistics import mean, median, stdev

import torch
from torch import nn
from torch.nn.functional import nll_loss
from torch.utils.data import DataLoader, Subset

from benchmarks.measure import CONSOLE, arguments, deterministic, seconds, sweep, table
from benchmarks.training import tutorials_mnist
from xent.recording.trace import FILE

RECIPE = "+experiment=fast", "loss=scratch"
DEFAULTS = "optimizer.lr=0.2", "loss.label_smoothing=0"
PARTS: list[tuple[str, ...]] = [
    ("optimizer.lr=0.2",),
    ("loss.label_smoothing=0",),
    ("model.width=24",),
    ("batch_size=256", "max_steps=320"),
    ("max_steps=468",),
    ("max_steps=936",),
    (*DEFAULTS, "max_steps=936"),  # the width alone is the recipe's
]
EXAMPLE_EPOCHS, EXAMPLE_BATCH = 4, 64
TIMED = 20  # batches of the example


def example_seconds(device: torch.device) -> float:
    """Estimate how long PyTorch's example trains: its network, optimizer and data loader, in our words."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1)),
    ).to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    dataset = tutorials_mnist()
    loader = DataLoader(Subset(dataset, range(TIMED * EXAMPLE_BATCH)), EXAMPLE_BATCH, shuffle=True)

    def train() -> None:
        for images, target in loader:
            optimizer.zero_grad()
            nll_loss(model(images.to(device)), target.to(device)).backward()
            optimizer.step()

    train()  # warms up
    return EXAMPLE_EPOCHS * seconds(train) * len(dataset) / (TIMED * EXAMPLE_BATCH)


def run_seconds(folder: Path) -> float:
    """The time between a run's configuration, which it writes when it begins, and its trace, when it ends."""
    return (folder / FILE).stat().st_mtime - (folder / ".hydra" / "overrides.yaml").stat().st_mtime


def measured(device: torch.device, seeds: int, *overrides: str) -> tuple[int, list[float], float]:
    """Train by the recipe with `overrides`, over so many seeds.

    Returns:
        the steps of a run, the test accuracy of every run, and the median of their seconds.
    """
    swept = f"seed={','.join(map(str, range(seeds)))}", f"device={device}", "~hydra.callbacks.compare"
    with tempfile.TemporaryDirectory() as folder:
        runs = sweep(folder, *RECIPE, *overrides, *swept)
        return runs[0].step, [run.tests[run.step][1] for run in runs], median(run_seconds(run.folder) for run in runs)


def main() -> None:
    device_name, seeds, parts = arguments(device="cpu", seeds="5", parts="false")
    device = deterministic(device_name)
    columns = "steps", "mean accuracy", "standard error", "smallest", "seconds"
    result = table(f"python train.py {' '.join(RECIPE)}, {seeds} seeds", "overrides", *columns, device=device)
    example, recipe_seconds = [example_seconds(device)], 0.0
    for overrides in [(), *PARTS] if parts == "true" else [()]:
        steps, accuracies, run_time = measured(device, int(seeds), *overrides)
        error = stdev(accuracies) / len(accuracies) ** 0.5
        percentages = (f"{value:.2%}" for value in (mean(accuracies), error, min(accuracies)))
        result.add_row(" ".join(overrides), str(steps), *percentages, f"{run_time:.2f}")
        recipe_seconds = recipe_seconds or run_time
    example.append(example_seconds(device))
    CONSOLE.print(result)
    print(f"PyTorch's example takes {mean(example):.0f} s, {mean(example) / recipe_seconds:.0f} times as long.")


if __name__ == "__main__":
    main()
