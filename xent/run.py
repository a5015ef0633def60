"""One run, from its configuration to its folder."""

import inspect
import sys
import time
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from xent import checkpoint
from xent import config as configuration
from xent.checkpoint import Training
from xent.compilation import compile_ahead
from xent.config import Config, OnNonfinite, Precision
from xent.contract import check_loss
from xent.data import Split, batches, load
from xent.device import machine, prepare
from xent.errors import BadInput, Stopped
from xent.files import claimed
from xent.interrupt import interrupted_between_steps
from xent.nonfinite import stop
from xent.nudge import nudge
from xent.progress import print_result, progress
from xent.schedule import one_cycle
from xent.tensorboard import EVENTS, RunLog
from xent.trace import FILE, Trace
from xent.training import fit

MOST_STEPS = 10**8  # their losses are kept
FINAL = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")  # what is told of a run at its end


def run(cfg: DictConfig, choices: dict[str, str], overrides: list[str], folder: Path) -> None:
    """Train as `cfg` says and leave trace, checkpoint, TensorBoard events and a table of the result.

    A run that `folder` holds already goes on from its checkpoint, or is left as it is if it came to its end.

    Args:
        cfg: the composed configuration.
        choices: the choice of every configuration group.
        overrides: the command line that it was composed from.
        folder: where the run leaves its files.

    Raises:
        BadInput: the configuration asks for what cannot be done; nothing is written then.
        Stopped: the training had to stop.
    """
    config = configuration.check(cfg)
    device = prepare(config.device)
    if device.type == "mps" and config.precision is Precision.float64:
        raise BadInput("precision=float64: Apple's GPUs have no float64; train it with device=cpu")
    settings = configuration.settings(cfg, choices) | {"device": str(device)} | machine(device)
    with claimed(folder):
        saved = checkpoint.load(folder)
        if saved:
            checkpoint.check_same_run(saved, settings, folder)
            if (folder / FILE).exists() and saved["settings"]["epochs"] == config.epochs:
                Trace.load(folder)
                print(f"{folder} is finished, after {len(saved['losses'])} steps")
                return
        elif (folder / FILE).exists():
            raise BadInput(f"{folder} holds a {FILE} and no {checkpoint.FILE} to go on from: give another folder")
        dtype = torch.float64 if config.precision is Precision.float64 else torch.float32
        train, test = load(config.data, device, dtype)
        training = _set_up(config, settings, train)
        if saved:
            checkpoint.restore(saved, training)
        (folder / FILE).unlink(missing_ok=True)  # of fewer epochs
        (folder / ".hydra").mkdir(exist_ok=True)  # as Hydra would, but only now
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        OmegaConf.save(overrides, folder / ".hydra" / "overrides.yaml")
        _train(config, training, train, test, overrides, folder, saved["log"] if saved else None)


def _set_up(config: Config, settings: dict[str, Any], train: Split) -> Training:
    """Model, loss and optimizer at the first step of a training."""
    if config.batch_size > len(train):
        raise BadInput(f"batch_size={config.batch_size}: {config.data.dataset} has {len(train)} training images")
    steps = train.steps_per_epoch(config.batch_size) * config.epochs
    steps = min(steps, config.max_steps or steps)
    if steps > MOST_STEPS:
        raise BadInput(f"epochs={config.epochs} are {steps:,} steps: expected at most {MOST_STEPS:,}")

    torch.manual_seed(config.seed)  # weights are drawn on the CPU in float32, whatever the device and precision
    model = instantiate(config.model, train.shape, train.classes)
    loss = instantiate(config.loss)
    for name, module in {"model": model, "loss": loss}.items():
        if not isinstance(module, nn.Module):
            raise BadInput(f"{name}._target_ made a {type(module).__name__}: expected a torch.nn.Module")
    check_loss(loss, train.classes)
    dtype, device = train.mean.dtype, train.labels.device
    model = model.to(dtype)
    nudge(model, config.nudge)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model, loss = model.to(device, memory_format=layout), loss.to(device, dtype)
    optimizer = instantiate(config.optimizer, [*model.parameters(), *loss.parameters()])
    if config.compile:
        first = next(batches(train, config.batch_size, config.seed, steps=1))
        print(f"compiled in {compile_ahead(model, loss, *first, config.precision is Precision.bfloat16):.1f} s")
    trace = Trace(settings, losses=torch.full((steps,), torch.nan, dtype=dtype, device=device))
    return Training(model, loss, optimizer, trace)


def _train(
    config: Config,
    training: Training,
    train: Split,
    test: Split,
    overrides: list[str],
    folder: Path,
    position: dict[str, Any] | None,
) -> None:
    """Train from where `training` is to the end, with its event file from `position` on."""
    trace = training.trace
    steps, steps_per_epoch = len(trace.losses), train.steps_per_epoch(config.batch_size)
    if position is None:
        for left in folder.glob(f"{EVENTS}*"):  # by a run that was killed before its first checkpoint
            left.unlink()
    start = time.perf_counter()
    with (
        interrupted_between_steps() as asked,
        RunLog(folder, trace.settings, position) as tensorboard,
        progress(steps) as show,
    ):

        def log(step: int, scalars: dict[str, float]) -> None:
            tensorboard.write(step, scalars)
            show(step, scalars)

        def save() -> None:
            checkpoint.save(folder, training, overrides, tensorboard.position())

        def after_step() -> None:
            every = config.checkpoint_every or steps_per_epoch
            end_of_epoch = trace.step % steps_per_epoch == 0
            if asked() or end_of_epoch or trace.step % every == 0 or trace.step == steps:
                save()
            if asked():
                raise KeyboardInterrupt
            if trace.step == steps_per_epoch and not trace.moved():
                print(f"the loss did not fall in {trace.step} steps: this training learns nothing", file=sys.stderr)

        if position is None:
            save()
        try:
            fit(
                training.model,
                training.loss,
                training.optimizer,
                one_cycle(training.optimizer, steps, trace.step),
                train,
                test,
                trace,
                batch_size=config.batch_size,
                seed=config.seed,
                log_every=config.log_every,
                autocast=config.precision is Precision.bfloat16,
                reference=_reference(config.loss),
                log=log,
                after_step=after_step,
                on_nonfinite=stop(folder) if config.on_nonfinite is OnNonfinite.stop else None,
            )
        except torch.OutOfMemoryError as error:
            raise Stopped(
                f"batch_size={config.batch_size} does not fit into the memory of {trace.settings['device']}: "
                f"try batch_size={max(1, config.batch_size // 2)}"
            ) from error
    trace.events = tensorboard.file.name
    trace.save(folder)
    print_result({tag: tensorboard.last[tag] for tag in FINAL}, steps, time.perf_counter() - start, folder)


def _reference(loss: dict[str, Any]) -> nn.Module:
    """PyTorch's loss with those of the arguments of `loss` that it knows."""
    known = inspect.signature(nn.CrossEntropyLoss).parameters
    return nn.CrossEntropyLoss(**{name: value for name, value in loss.items() if name in known})
