"""Build a training from a configuration, at its first step."""

import logging
from contextlib import AbstractContextManager, suppress
from copy import deepcopy
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from torch import nn

from xent.cli.compose import PYTORCHS_ARGUMENTS, Run
from xent.cli.distributed import tell
from xent.cli.schema import OnNonfinite, Precision
from xent.losses.function import FunctionLoss
from xent.recording import BadInput, Recorder
from xent.recording.errors import in_one_line
from xent.recording.float64 import all_in_float64
from xent.recording.processes import rank, world_size
from xent.recording.trace import FILE
from xent.training.data import Split
from xent.training.loop import Training
from xent.training.loss_in_float64 import LossInFloat64
from xent.training.microbatches import target_counts
from xent.training.models import draw_weights
from xent.training.trials import ROWS, Trial, large_logits, outcome
from xent.training.validate_loss import in_working_type, trial_logits

logging.getLogger("hydra.utils").disabled = True  # what cannot be found is said once, by `instantiate`
MAX_STEPS = 10**8  # the trace keeps the loss of each


def build(run: Run, train: Split) -> Training:
    """Build model, loss and optimizer at the first step of a training on `train`.

    Raises:
        BadInput: they cannot be built.
    """
    config = run.config
    steps = _number_of_steps(run, train)
    torch.manual_seed(config.seed)  # for what a custom model or loss draws
    model = instantiate(config.model, train.shape, train.classes)
    if not isinstance(model, nn.Module):
        raise BadInput(f"model._target_ made a {type(model).__name__}: expected a torch.nn.Module")
    loss = build_tried_loss(run, train.classes)
    if world_size() > 1 and any(parameter.requires_grad for parameter in loss.parameters()):
        raise BadInput("the loss has weights of its own, which one process alone can train: leave torchrun out")
    target_counts(loss, config.accumulate, train.classes, run.device)  # refuse early what cannot be accumulated
    draw_weights(model, config.seed)  # on the CPU, as float32, whatever the device and precision
    model = _with_batch_norm_of_parts(model, run).to(run.dtype)
    if rank() == 0:
        (run.folder / FILE).unlink(missing_ok=True)  # an earlier trace, of fewer epochs
    folder = run.folder if rank() == 0 else None
    recorder = Recorder(folder, steps=steps, settings=run.settings, nudge=config.nudge, where=config.where)
    recorder.nudge(model)
    recorder.trace.trials = _tried_on_large_logits(loss, run, train.classes)
    if judges_function(run):
        loss = LossInFloat64(loss, recorder.trace.casts)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(run.device).to(memory_format=layout)
    try_optimizer(run)
    optimizer = instantiate(config.optimizer, [*model.parameters(), *loss.parameters()], _convert_="all")
    if config.compile:  # two graphs, to keep the gradient of the logits between them
        torch.compiler.reset()  # a run must not depend on those before it in a sweep
        # CUDA graphs cost the host the least, but would write over accumulated gradients.
        mode = "reduce-overhead" if run.device.type == "cuda" and config.accumulate == 1 else None
        for module in (model, loss):  # Module.compile skips PyTorch's own modules in PyTorch 2.6
            module.forward = torch.compile(module.forward, mode=mode)
    batch_size, accumulate, autocast = config.batch_size, config.accumulate, config.precision is Precision.bfloat16
    return Training(model, loss, optimizer, recorder, batch_size, config.seed, autocast, run.loss_dtype, accumulate)


def build_tried_loss(run: Run, classes: int) -> nn.Module:
    """Build the loss of a run on its device and in its precision, and try it.

    Raises:
        BadInput: it cannot be trained with.
    """
    loss = build_loss(run.config.loss).to(run.device)
    logits = trial_logits((min(run.config.batch_size, 4096), classes), _dtype_of_logits(run), run.device)
    target = torch.arange(len(logits), device=run.device) // 4 % classes  # half of the confident rows are wrong
    with _as_trained(run):
        loss = in_working_type(loss, run.loss_dtype or run.dtype, logits, target, "the loss")
        of_small_logits = outcome(loss, Trial("small logits", logits.clamp(max=1), target))
    if run.config.on_nonfinite is OnNonfinite.stop and not of_small_logits.gradient.isfinite().any():
        raise BadInput("the gradient of the loss is not finite, even of logits from 0 to 1: it trains nothing")
    return loss


def _tried_on_large_logits(loss: nn.Module, run: Run, classes: int) -> dict[str, tuple[float, float]]:
    """The loss of large logits and the norm of its gradient, by the name of the trial, but where it raises an error."""
    outcomes = {}
    with _as_trained(run):
        for trial in large_logits(torch.arange(ROWS, device=run.device) % classes, classes, _dtype_of_logits(run)):
            with suppress(Exception):  # anyone's loss may raise anything
                of_trial = outcome(loss, trial)
                outcomes[trial.name] = of_trial.value, of_trial.gradient.norm().item()
    return outcomes


def _dtype_of_logits(run: Run) -> torch.dtype:
    """The type of the logits that the loss gets."""
    autocast = run.config.precision is Precision.bfloat16
    return run.loss_dtype or (torch.bfloat16 if autocast else run.dtype)


def _as_trained(run: Run) -> AbstractContextManager[object]:
    """What the loss is computed in."""
    if judges_function(run):
        return all_in_float64()
    return torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision is Precision.bfloat16)


def judges_function(run: Run) -> bool:
    """Whether a run's loss is to be judged as a function: in float64 all the way, with no rounding of its own.

    A compiled loss is not: PyTorch does not compile inside `all_in_float64`.
    """
    return run.dtype is torch.float64 and run.loss_dtype is None and not run.config.compile


def build_loss(config: dict[str, Any]) -> nn.Module:
    """Build the loss that a configuration names: its `_target_`, a class or a function, with arguments.

    Raises:
        BadInput: it is no loss.
    """
    arguments = _with_tensors(config)
    target = None
    with suppress(Exception):  # `instantiate` says what cannot be found
        target = get_object(str(config["_target_"]))
    if isinstance(target, nn.Module):
        return deepcopy(target)
    if callable(target) and not isinstance(target, type):
        named = instantiate(arguments | {"_partial_": True}, _convert_="all")
        return FunctionLoss(named.func, **named.keywords)
    loss = instantiate(arguments, _convert_="all")
    if not callable(loss):
        kind = type(loss).__name__
        raise BadInput(f"loss._target_ made a {kind}: expected a torch.nn.Module, or a function (logits, target)")
    return loss if isinstance(loss, nn.Module) else FunctionLoss(loss)


def build_reference(config: dict[str, Any], classes: int) -> nn.Module | None:
    """PyTorch's loss with those of the arguments that it knows; None if it cannot use them."""
    arguments = {name: value for name, value in _with_tensors(config).items() if name in PYTORCHS_ARGUMENTS}
    try:
        loss = nn.CrossEntropyLoss(**instantiate(arguments, _convert_="all"))
        deepcopy(loss).float()(torch.zeros(2, classes), torch.tensor([0, classes - 1])).item()
        return loss
    except Exception:  # the arguments of a custom loss may be of any type
        return None


def _with_tensors(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a loss, with the weights of classes as a tensor instead of a list."""
    weight = config.get("weight")
    is_list = isinstance(weight, list) and all(isinstance(number, int | float) for number in weight)
    return config | ({"weight": torch.tensor(weight, dtype=torch.float32)} if is_list else {})


def try_optimizer(run: Run) -> None:
    """Make a step of a run's optimizer on a parameter of zeros: some read their arguments only then.

    Raises:
        BadInput: it cannot make a step.
    """
    trial = nn.Parameter(torch.zeros(2, 2, dtype=run.dtype, device=run.device))
    trial.grad = torch.zeros_like(trial)
    optimizer = instantiate(run.config.optimizer, [trial], _convert_="all")
    try:
        optimizer.step()
    except Exception as error:  # anyone's optimizer may raise anything
        raise BadInput(f"the optimizer cannot make a step ({in_one_line(error)})") from error


def _number_of_steps(run: Run, train: Split) -> int:
    """The number of steps of a run.

    Raises:
        BadInput: there are too many, or batches cannot be divided.
    """
    config, parts = run.config, world_size() * run.config.accumulate
    if config.batch_size > len(train):
        raise BadInput(f"batch_size={config.batch_size}: {config.data.dataset} has {len(train)} training images")
    if config.batch_size < parts or (config.compile and config.batch_size % parts):
        expected = f"expected at least {parts}, processes times accumulate, and with compile=true a multiple"
        raise BadInput(f"batch_size={config.batch_size}: {expected}")
    steps = train.steps_per_epoch(config.batch_size) * config.epochs
    steps = min(steps, config.max_steps or steps)
    if steps > MAX_STEPS:
        raise BadInput(f"epochs={config.epochs} are {steps:,} steps: expected at most {MAX_STEPS:,}")
    return steps


def _with_batch_norm_of_parts(model: nn.Module, run: Run) -> nn.Module:
    """Synchronise batch normalisation over all processes where PyTorch can; warn if it still sees parts of a batch.

    Raises:
        BadInput: a part has a single image.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    synchronised = run.device.type not in ("cpu", "mps")  # which have no SyncBatchNorm
    if norms and world_size() > 1 and synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    parts = run.config.accumulate * (1 if synchronised else world_size())
    if norms and run.config.batch_size < 2 * parts:
        raise BadInput(f"batch_size={run.config.batch_size}: batch normalisation needs two images in each part")
    if norms and parts > 1:
        what = f"batch normalisation takes its statistics of each of {parts} parts of a batch"
        tell(f"{what}, so this is another training than that of whole batches; model.norm=group has none")
    return model
