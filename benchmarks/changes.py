"""Correct changes of a training: programs that learn the same and round differently. For benchmarks.verdict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

import xent
from benchmarks.training import BATCH, MNIST
from tests.helpers.right_losses import by_logsumexp, by_one_hot, by_powers_of_2, by_softplus
from xent.recording import Recorder
from xent.recording.trace import Trace
from xent.training import models
from xent.training.compilation import compile_ahead
from xent.training.data import batches
from xent.training.datasets import load
from xent.training.evaluation import PROBE
from xent.training.loop import Training, fit
from xent.training.weights import draw_weights

MODELS = {"mlp": (models.mlp, 128, 64), "cnn": (models.cnn, 24, 32), "resnet": (models.resnet, 4, 32)}  # width, steps
INSTRUCTIONS = "another instruction set"  # which a process has from its start; see benchmarks.verdict
OTHER_INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Setup:
    """What of a training a change may change; as it is, the reference."""

    model: nn.Module
    loss: Loss
    order: int = 0  # a nudge of the batches alone
    layout: torch.memory_format = torch.contiguous_format
    threads: int = 1
    onednn: bool = True
    fused: bool = True
    compiled: bool = False


class InParts(nn.Module):
    """A model that takes a batch in four parts, so that the gradient is accumulated over them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.model(part) for part in images.chunk(4)])


@torch.no_grad()
def permute_hidden(model: nn.Module) -> None:
    """Put the hidden units of a network in another order: the same function, by other sums."""
    if isinstance(model[0], nn.Flatten):
        hidden = [([model[1]], model[3]), ([model[3]], model[5])]
    elif isinstance(model[3], models.Residual):
        blocks = [layer.residual for layer in model if isinstance(layer, models.Residual)]
        hidden = [([block[0], block[1]], block[3]) for block in blocks]
    else:
        hidden = [([model[0], model[1]], model[3]), ([model[3], model[4]], model[7])]
    generator = torch.Generator().manual_seed(0)
    for layers, following in hidden:
        units = len(layers[0].weight)
        order = torch.randperm(units, generator=generator)
        for layer in layers:
            for parameter in layer.parameters():
                parameter.copy_(parameter[order].clone())
        by_unit = following.weight.unflatten(1, (units, -1))
        following.weight.copy_(by_unit[:, order].flatten(1, 2).clone())


LOSSES: dict[str, Loss] = {
    "loss=scratch": xent.cross_entropy,
    "loss=fused": xent.fused_cross_entropy,
    "loss=article": xent.ArticleCrossEntropyLoss(),
    "loss by one-hot targets": by_one_hot,
    "loss by logsumexp": by_logsumexp,
    "loss by softplus": by_softplus,
    "loss by powers of 2": by_powers_of_2,
}
CHANGES: dict[str, Callable[[Setup], Setup]] = {
    "batch order": partial(replace, order=10**6),
    "two threads": partial(replace, threads=2),
    "oneDNN off": partial(replace, onednn=False),
    "channels_last": partial(replace, layout=torch.channels_last),
    "channels_last, two threads": partial(replace, layout=torch.channels_last, threads=2),
    INSTRUCTIONS: replace,
    "compile": partial(replace, compiled=True),
    "optimizer.fused": partial(replace, fused=False),
    "accumulated in 4 parts": lambda setup: replace(setup, model=InParts(setup.model)),
    "hidden units permuted": lambda setup: permute_hidden(setup.model) or setup,
} | {name: partial(replace, loss=loss) for name, loss in LOSSES.items()}
NOT_FOR = {  # where a change is none, or another function: a part of a batch has other statistics than the whole
    "mlp": ("oneDNN off", "channels_last", "channels_last, two threads"),
    "cnn": ("accumulated in 4 parts",),
    "resnet": ("accumulated in 4 parts",),
}


@contextmanager
def arithmetic(setup: Setup) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(setup.threads)
    try:
        with torch.backends.mkldnn.flags(enabled=setup.onednn):
            yield
    finally:
        torch.set_num_threads(threads)


def trained(settings: dict[str, str | int], loss: Loss) -> Trace:
    """The trace of a training on MNIST with a loss; `settings` are model, precision, seed, nudge, change, and steps."""
    make, width, steps = MODELS[str(settings["model"])]
    steps = int(settings.get("steps", steps))
    dtype, seed, nudge = getattr(torch, str(settings["precision"])), int(settings["seed"]), int(settings["nudge"])
    train, test = load(MNIST, torch.device("cpu"), dtype)
    test = replace(test, images=test.images[:PROBE], labels=test.labels[:PROBE])
    model = make(train.shape, train.classes, width)
    draw_weights(model, seed)
    setup = CHANGES.get(str(settings["change"]), replace)(Setup(model.to(dtype), loss))
    of_run = {key: value for key, value in settings.items() if key != "nudge"}
    recorder = Recorder(steps=steps, settings=of_run, nudge=nudge or setup.order)
    if nudge:
        recorder.nudge(setup.model)
    with arithmetic(setup):
        model = setup.model.to(memory_format=setup.layout)
        if setup.compiled:
            compile_ahead(model, nn.CrossEntropyLoss(), *next(batches(train, BATCH, seed, steps=1)), autocast=False)
        parameters = model.parameters()
        optimizer = torch.optim.SGD(parameters, 0.2, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=setup.fused)
        training = Training(model, setup.loss, optimizer, recorder, BATCH, seed)
        fit(training, train, test, log_every=steps)
    recorder.trace.settings["nudge"] = nudge  # of a change of the order too, which is the candidate then
    return recorder.trace
