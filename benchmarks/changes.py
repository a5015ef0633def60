"""Trainings on MNIST with one change, correct or wrong. For benchmarks.verdict."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

import xent
from benchmarks.training import BATCH, MNIST
from tests.helpers.right_losses import by_logsumexp, by_one_hot, by_powers_of_2, by_softplus
from xent.losses.impostors import MISTAKES, Impostor, gradient_scaled
from xent.recording import Recorder
from xent.recording.trace import Trace
from xent.training import models
from xent.training.datasets import load
from xent.training.loop import PROBE, Training, fit
from xent.training.loss_in_float64 import LossInFloat64

MODELS = {"mlp": (models.mlp, 128), "cnn": (models.cnn, 24), "resnet": (models.resnet, 4)}  # and their widths
INSTRUCTIONS = "another instruction set"  # which a process has from its start; see benchmarks.verdict
IGNORED = 9  # the class that counts for nothing where impostors train: some mistakes are made in ignoring

Loss = Callable[[Tensor, Tensor], Tensor]
Settings = dict[str, str | int]


@dataclass
class Setup:
    """What a change may change of a training. The defaults are the reference's."""

    model: nn.Module
    loss: Loss
    order: int = 0  # a nudge of the batches alone
    layout: torch.memory_format = torch.contiguous_format
    threads: int = 1
    onednn: bool = True
    fused: bool = True
    compiled: bool = False
    accumulate: int = 1


Change = Callable[[Setup], Setup]


@torch.no_grad()
def permute_hidden(setup: Setup) -> Setup:
    """Put the hidden units of the network in another order: the same function, by other sums."""
    generator = torch.Generator().manual_seed(0)
    blocks: list[nn.Module] = [m.residual for m in setup.model.modules() if isinstance(m, models.Residual)]
    for block in blocks or [setup.model]:
        layers = [layer for layer in block.children() if list(layer.parameters())]
        matrices = [i for i, layer in enumerate(layers) if not isinstance(layer, nn.BatchNorm2d)]
        for i, following in pairwise(matrices):
            following_weight = next(layers[following].parameters())
            units = len(next(layers[i].parameters()))
            order = torch.randperm(units, generator=generator)
            for layer in layers[i:following]:
                for parameter in layer.parameters():
                    parameter.copy_(parameter[order].clone())
            by_unit = following_weight.unflatten(1, (units, -1))
            following_weight.copy_(by_unit[:, order].flatten(1, 2).clone())
    return setup


def with_loss(loss: Loss) -> Change:
    return lambda setup: replace(setup, loss=loss)


CORRECT: dict[str, Change] = {
    "batch order": lambda setup: replace(setup, order=10**6),
    "two threads": lambda setup: replace(setup, threads=2),
    "oneDNN off": lambda setup: replace(setup, onednn=False),
    "channels_last": lambda setup: replace(setup, layout=torch.channels_last),
    "channels_last, two threads": lambda setup: replace(setup, layout=torch.channels_last, threads=2),
    INSTRUCTIONS: replace,
    "compile": lambda setup: replace(setup, compiled=True),
    "optimizer.fused": lambda setup: replace(setup, fused=False),
    "accumulated in 4 parts": lambda setup: replace(setup, accumulate=4),
    "hidden units permuted": permute_hidden,
    "loss=scratch": with_loss(xent.cross_entropy),
    "loss=fused": with_loss(xent.fused_cross_entropy),
    "loss=article": with_loss(xent.ArticleCrossEntropyLoss()),
    "loss by one-hot targets": with_loss(by_one_hot),
    "loss by logsumexp": with_loss(by_logsumexp),
    "loss by softplus": with_loss(by_softplus),
    "loss by powers of 2": with_loss(by_powers_of_2),
}
NOT_FOR = {  # where a change is none, or another function: a part of a batch has other statistics than the whole
    "mlp": ("oneDNN off", "channels_last", "channels_last, two threads"),
    "cnn": ("accumulated in 4 parts",),
    "resnet": ("accumulated in 4 parts",),
}
GRADIENTS = {
    f"1 + {error:.0e}": with_loss(partial(gradient_scaled, by=error))
    for error in (1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15)
}
IMPOSTORS = {name: with_loss(Impostor(name, ignore_index=IGNORED)) for name in MISTAKES}
CHANGES = {"none": replace} | CORRECT | GRADIENTS | IMPOSTORS


def trained(settings: Settings) -> Trace:
    """Train a network on MNIST in this process, whose number of threads it sets.

    Args:
        settings: `model`, `precision`, `seed`, `nudge`, `change`, `steps` and `ignore_index`.
    """
    make, width = MODELS[str(settings["model"])]
    dtype = getattr(torch, str(settings["precision"]))
    seed, nudge, steps, ignored = (int(settings[key]) for key in ("seed", "nudge", "steps", "ignore_index"))
    train, test = load(MNIST, torch.device("cpu"), dtype)
    test = replace(test, images=test.images[:PROBE], labels=test.labels[:PROBE])
    model = make(train.shape, train.classes, width)
    models.draw_weights(model, seed)
    setup = CHANGES[str(settings["change"])](Setup(model.to(dtype), nn.CrossEntropyLoss(ignore_index=ignored)))
    recorder = Recorder(steps=steps, settings=settings | {"nudge": nudge or setup.order}, nudge=nudge or setup.order)
    if nudge:
        recorder.nudge(setup.model)
    model = setup.model.to(memory_format=setup.layout)
    if setup.compiled:
        model.compile()
    parameters = model.parameters()
    optimizer = torch.optim.SGD(parameters, 0.2, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=setup.fused)
    loss = setup.loss
    if dtype == torch.float64 and not setup.compiled:  # as in train.py
        loss = LossInFloat64(loss, recorder.trace.casts)
    training = Training(model, loss, optimizer, recorder, BATCH, seed, accumulate=setup.accumulate)
    torch.set_num_threads(setup.threads)
    with torch.backends.mkldnn.flags(enabled=setup.onednn):
        for _ in fit(training, train, test, log_every=steps):
            pass
    recorder.trace.settings["nudge"] = nudge  # of a change of the order too, which is a candidate
    return recorder.trace
