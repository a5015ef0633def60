"""A linear model of images of noise, for the tests of its training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from xent.recording import Recorder
from xent.training.data import Split
from xent.training.loop import Step, Training, fit


def split(n: int = 40) -> Split:
    images = torch.randint(256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
    return Split(images, torch.arange(n) % 3, 3, torch.full((1, 1, 1), 127.5), torch.full((1, 1, 1), 63.75))


def training(steps: int, nudge: int = 0, **changes: Any) -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"loss": nn.CrossEntropyLoss(), "recorder": Recorder(steps=steps, nudge=nudge)} | changes
    return Training(model, optimizer=optimizer, batch_size=8, seed=0, **parts)  # type: ignore[arg-type]


def steps_of(training: Training, log_every: int = 4, test_every: int | None = None) -> Iterator[Step]:
    return fit(training, split(), split(30), log_every, test_every)
