"""One run, from its configuration to its folder."""

import inspect
import time
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from xent import config as configuration
from xent.compilation import compile_ahead
from xent.config import Precision
from xent.data import batches, load
from xent.device import machine, prepare
from xent.errors import BadInput
from xent.interrupt import interrupted_between_steps
from xent.nudge import nudge
from xent.progress import print_result, progress
from xent.schedule import one_cycle
from xent.tensorboard import FINAL, RunLog
from xent.trace import Trace
from xent.training import fit


def run(cfg: DictConfig, choices: dict[str, str], folder: Path) -> None:
    """Train as `cfg` says and leave trace, TensorBoard events and a table of the result.

    Args:
        cfg: the composed configuration.
        choices: the choice of every configuration group.
        folder: where the run leaves its files.

    Raises:
        BadInput: the configuration asks for what cannot be done; nothing is written then.
    """
    config = configuration.check(cfg)
    device = prepare(config.device)
    dtype = torch.float64 if config.precision is Precision.float64 else torch.float32
    if device.type == "mps" and dtype == torch.float64:
        raise BadInput("precision=float64: Apple's GPUs have no float64; train it with device=cpu")
    train, test = load(config.data, device, dtype)
    if config.batch_size > len(train):
        raise BadInput(f"batch_size={config.batch_size}: {config.data.dataset} has {len(train)} training images")
    steps = train.steps_per_epoch(config.batch_size) * config.epochs
    steps = min(steps, config.max_steps or steps)

    torch.manual_seed(config.seed)  # weights are drawn on the CPU in float32, whatever the device and precision
    model = instantiate(config.model, train.shape, train.classes)
    loss = instantiate(config.loss)
    _check_modules(model, loss, train.classes)
    model = model.to(dtype)
    nudge(model, config.nudge)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model, loss = model.to(device, memory_format=layout), loss.to(device, dtype)
    optimizer = instantiate(config.optimizer, [*model.parameters(), *loss.parameters()])

    settings = configuration.settings(cfg, choices) | {"device": str(device)} | machine(device)
    autocast = config.precision is Precision.bfloat16
    if config.compile:
        first = next(batches(train, config.batch_size, config.seed, steps=1))
        print(f"compiled in {compile_ahead(model, loss, *first, autocast):.1f} s")
    trace = Trace(settings, losses=torch.full((steps,), torch.nan, dtype=dtype, device=device))
    start = time.perf_counter()
    try:
        with interrupted_between_steps() as check, RunLog(folder, settings) as tensorboard, progress(steps) as show:

            def log(step: int, scalars: dict[str, float]) -> None:
                tensorboard.write(step, scalars)
                show(step, scalars)

            fit(
                model,
                loss,
                optimizer,
                one_cycle(optimizer, steps),
                train,
                test,
                trace,
                batch_size=config.batch_size,
                seed=config.seed,
                log_every=config.log_every,
                autocast=autocast,
                reference=_reference(config.loss),
                log=log,
                after_step=check,
            )
    finally:
        trace.save(folder)  # what there is of it, should the run be cut short
    seconds = time.perf_counter() - start
    print_result({tag: tensorboard.last[tag] for tag in FINAL}, steps, seconds, folder)


def _reference(loss: dict[str, Any]) -> nn.Module:
    """PyTorch's loss with those of the arguments of `loss` that it knows."""
    known = inspect.signature(nn.CrossEntropyLoss).parameters
    return nn.CrossEntropyLoss(**{name: value for name, value in loss.items() if name in known})


def _check_modules(model: object, loss: object, classes: int) -> None:
    """Refuse, before anything is written, what cannot be trained."""
    for name, module in {"model": model, "loss": loss}.items():
        if not isinstance(module, nn.Module):
            raise BadInput(f"{name}._target_ made a {type(module).__name__}: expected a torch.nn.Module")
    assert isinstance(loss, nn.Module)
    value = loss(torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64))
    if value.ndim > 0:
        raise BadInput(f"the loss of 2 rows of logits is of shape {tuple(value.shape)}: expected one number")
