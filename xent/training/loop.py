"""The training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xent.training.data import Split, batches
from xent.training.evaluation import PROBE, evaluate, predict
from xent.training.loss_precision import given_to_loss
from xent.training.schedule import one_cycle
from xent.training.trace import Trace, is_probe_step


@dataclass
class Training:
    """A training, at the step of its trace. The learning rate and the order of the data follow from that step."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]  # (logits [batch, classes], target [batch]) -> scalar
    optimizer: torch.optim.Optimizer
    trace: Trace  # with room for as many losses as there are steps to make
    batch_size: int
    seed: int  # draws the order of the data and its augmentation
    nudge: int = 0  # draws another order of the images within each batch
    autocast: bool = False  # compute logits and loss under bfloat16 autocast
    loss_dtype: torch.dtype | None = None  # of the logits that the loss gets, if it is not that of the model's


class Step(NamedTuple):
    """A step whose gradients are computed, as `number`, counted from 1.

    Where it is logged, `logits`, in the type that the loss gets them, and `target` are as they were before the loss,
    and `logits.grad` is kept.
    """

    number: int
    target: Tensor
    logits: Tensor
    loss: Tensor
    lr: float | Tensor


class Callbacks(NamedTuple):
    """What is called while a training runs.

    Attributes:
        log: takes each logged step, after the weights have changed.
        after_step: is called when all of a step is recorded, and may raise to stop there.
        on_nonfinite: takes the step at which a loss is seen to be NaN or infinite, before the weights change. Elsewhere
            than on the CPU, where the host would wait for each loss, they are looked at when a step is logged.
    """

    log: Callable[[Step], None] = lambda step: None
    after_step: Callable[[], None] = lambda: None
    on_nonfinite: Callable[[Step], None] | None = None


NO_CALLBACKS = Callbacks()


def fit(training: Training, train: Split, test: Split, log_every: int, callbacks: Callbacks = NO_CALLBACKS) -> None:
    """Train from the step that `training` is at to the last, and record losses, probe logits and tests in its trace.

    The host waits for the device only to log, every `log_every` steps, and to evaluate, after each epoch.
    """
    model, optimizer, trace = training.model, training.optimizer, training.trace
    device, start, steps = train.labels.device, trace.step, len(trace.losses)
    schedule = one_cycle(optimizer, steps, start)
    if start == 0:
        _record(training, train, test)
    model.train()
    following = batches(train, training.batch_size, training.seed, steps, start, training.nudge)
    for number, (images, target) in enumerate(following, start + 1):
        logged = number % log_every == 0 or number == steps
        with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
            logits = model(images)
            if training.loss_dtype:
                logits = given_to_loss(logits, training.loss_dtype, training.nudge, number)
            given = (logits.clone(), target.clone()) if logged else (logits, target)  # some losses write over them
            loss = training.loss(*given)
        step = Step(number, target, logits, loss, schedule.get_last_lr()[0])
        if logged:
            logits.retain_grad()
        optimizer.zero_grad()
        loss.backward()
        trace.losses[number - 1] = loss.detach()
        if callbacks.on_nonfinite and (logged or device.type == "cpu"):
            new = 1 if device.type == "cpu" else log_every
            if not _finite(trace.losses[max(start, number - new) : number]):
                callbacks.on_nonfinite(step)
        optimizer.step()
        schedule.step()
        trace.step = number
        if logged:
            callbacks.log(step)
        _record(training, train, test)
        callbacks.after_step()


def _finite(losses: Tensor) -> bool:
    """Whether all are finite numbers; of one, which is on the CPU, told without the tensors that cost 15 us there."""
    return isfinite(losses.item()) if len(losses) == 1 else bool(losses.isfinite().all())


def _record(training: Training, train: Split, test: Split) -> None:
    """Probe logits and test results, where they are due after a step."""
    model, trace, autocast = training.model, training.trace, training.autocast
    if is_probe_step(trace.step, len(trace.losses)):
        trace.probe_logits[trace.step] = predict(model, test, PROBE, autocast)
    end_of_epoch = trace.step > 0 and trace.step % train.steps_per_epoch(training.batch_size) == 0
    if end_of_epoch or trace.step == len(trace.losses):
        trace.tests[trace.step] = evaluate(model, test, autocast)
