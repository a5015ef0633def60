"""A training at its first step, built from a configuration."""

from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from xent.cli.compose import Run
from xent.cli.losses import build_loss
from xent.cli.schema import FirstFilters, Precision
from xent.cli.together import first_goes_first
from xent.cli.torchrun import tell, tell_once
from xent.recording import Recorder, trace_file
from xent.recording.device import kind
from xent.recording.errors import BadInput
from xent.recording.processes import is_first
from xent.training.compilation import compile_ahead
from xent.training.data import Split, batches
from xent.training.datasets import PUBLISHED, load
from xent.training.loop import Training
from xent.training.parts import Parts, slices
from xent.training.validate_loss import in_working_type, trial_logits
from xent.training.weights import begin_with_cosines, draw_weights

MAX_STEPS = 10**8  # their losses are kept
MAX_TRIAL = 4096  # rows that a loss is tried on


def tried_loss(run: Run, classes: int) -> nn.Module:
    """The loss of a run on its device and in its precision. BadInput if it cannot be trained with."""
    loss = build_loss(run.config.loss).to(run.device)
    autocast = run.config.precision is Precision.bfloat16
    dtype = run.loss_dtype or (torch.bfloat16 if autocast else run.dtype)
    rows = min(run.config.batch_size, MAX_TRIAL)
    logits = trial_logits((rows, classes), dtype, run.device)
    target = torch.arange(len(logits), device=run.device) // 4 % classes  # of the sure rows, half are wrong
    with torch.autocast(run.device.type, torch.bfloat16, enabled=autocast):
        return in_working_type(loss, run.loss_dtype or run.dtype, logits, target, "the loss")


def load_data(run: Run, saved: dict[str, Any] | None) -> tuple[Split, Split]:
    """The data to train on and to test with, on the device.

    BadInput if it is not there and cannot be downloaded, or is not that of a saved run.
    """
    with first_goes_first():  # which may download it
        train, test = load(run.config.data, run.device, run.dtype)
    before = saved["recorder"]["settings"].get("data.content", train.content) if saved else train.content
    if before != train.content:
        raise BadInput(
            f"data.root={run.config.data.root} holds other images or labels than the run began with ({train.content}, "
            f"then {before}): give it those"
        )
    if is_first() and PUBLISHED.get(run.config.data.dataset, train.content) != train.content:
        tell_once(
            f"{run.config.data.dataset} in {run.config.data.root} holds other images or labels than were published"
        )
    return train, test


def build(run: Run, train: Split) -> Training:
    """Model, loss and optimizer at the first step of a training on `train`. BadInput if they cannot be built."""
    config = run.config
    if config.batch_size > len(train):
        raise BadInput(f"batch_size={config.batch_size}: {config.data.dataset} has {len(train)} training images")
    steps = train.steps_per_epoch(config.batch_size) * config.epochs
    steps = min(steps, config.max_steps or steps)
    if steps > MAX_STEPS:
        raise BadInput(f"epochs={config.epochs} are {steps:,} steps: expected at most {MAX_STEPS:,}")

    torch.manual_seed(config.seed)  # for what a model or a loss of one's own draws
    of_model = {key: value for key, value in vars(config.model).items() if value is not None}
    model = instantiate(of_model, train.shape, train.classes)
    if not isinstance(model, nn.Module):
        raise BadInput(f"model._target_ made a {type(model).__name__}: expected a torch.nn.Module")
    loss = tried_loss(run, train.classes)
    draw_weights(model, config.seed)  # on the CPU, as float32, whatever the device and precision
    if config.first_filters is FirstFilters.cosines:
        begin_with_cosines(model)
    model = normalised_across_processes(model, run).to(run.dtype)
    if config.processes > 1 and any(each.requires_grad for each in loss.parameters()):
        raise BadInput(
            f"processes={config.processes}: the loss has weights of its own, which one process alone can train"
        )
    Parts.of(loss, config.accumulate, train.classes, run.device)  # refuses what it cannot do
    if is_first():
        (run.folder / trace_file.FILE).unlink(missing_ok=True)  # of fewer epochs
    folder = run.folder if is_first() else None
    recorder = Recorder(
        folder, steps=steps, settings=run.settings | {"data.content": train.content}, nudge=config.nudge
    )
    recorder.nudge(model)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(run.device).to(memory_format=layout)
    autocast = config.precision is Precision.bfloat16
    optimizer = instantiate(config.optimizer, [*model.parameters(), *loss.parameters()])
    if config.compile:
        if config.batch_size % (config.processes * config.accumulate) > 0:
            raise BadInput("compile=true: expected a batch_size that processes times accumulate divides, for one shape")
        images, target = next(batches(train, config.batch_size, config.seed, steps=1))
        rows = slices(config.batch_size, config.processes * config.accumulate)[0]
        seconds = compile_ahead(model, loss, images[rows], target[rows], autocast, run.loss_dtype, config.accumulate)
        if is_first():
            print(f"compiled in {seconds:.1f} s")
    return Training(
        model,
        loss,
        optimizer,
        recorder,
        config.batch_size,
        config.seed,
        autocast,
        run.loss_dtype,
        config.accumulate,
        config.warm_up,
    )


def normalised_across_processes(model: nn.Module, run: Run) -> nn.Module:
    """The model, with batch normalisation over all processes where PyTorch has that; it is told where it has not."""
    config = run.config
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return model
    synchronised = kind(run.device).sync_batch_norm
    if config.processes > 1 and synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    parts = config.accumulate * (1 if synchronised else config.processes)
    of_units = any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
    if of_units and config.batch_size // (config.processes * config.accumulate) < 2:
        raise BadInput(
            f"batch_size={config.batch_size}: batch normalisation needs two images in each part; expected fewer parts, "
            "or model.norm=group"
        )
    if parts > 1:
        tell(
            f"batch normalisation takes its statistics of each of {parts} parts of a batch, so this is another "
            "training than that of whole batches; model=mlp, or model.norm=group, has none"
        )
    return model
