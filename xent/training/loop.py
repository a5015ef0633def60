"""The training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xent.recording import Recorder
from xent.training.data import Split, batches
from xent.training.evaluation import PROBE, evaluate, predict
from xent.training.loss_precision import given_to_loss
from xent.training.schedule import one_cycle


@dataclass
class Training:
    """A training, at the step of its recorder. The learning rate and the order of the data follow from that step."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]  # (logits [batch, classes], target [batch]) -> scalar
    optimizer: torch.optim.Optimizer
    recorder: Recorder  # for as many steps as there are to make
    batch_size: int
    seed: int  # draws the order of the data and its augmentation
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
    """Train from the step that `training` is at to the last, and record losses, probe and tests.

    The host waits for the device only to log, every `log_every` steps, at probe steps and to evaluate, after each
    epoch.
    """
    model, optimizer, recorder = training.model, training.optimizer, training.recorder
    device, start, steps, trace = train.labels.device, recorder.trace.step, recorder.steps, recorder.trace
    schedule = one_cycle(optimizer, steps, start)

    def probe() -> Tensor:
        return predict(model, test, PROBE, training.autocast)

    if start == 0:
        recorder.begin(probe)
    model.train()
    for number, batch in enumerate(batches(train, training.batch_size, training.seed, steps, start), start + 1):
        images, target = recorder.reorder(*batch)
        logged = number % log_every == 0 or number == steps
        with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
            logits = model(images)
            if training.loss_dtype:
                logits = given_to_loss(logits, training.loss_dtype, trace.settings["nudge"], number)
            given = (logits.clone(), target.clone()) if logged else (logits, target)  # some losses write over them
            loss = training.loss(*given)
        step = Step(number, target, logits, loss, schedule.get_last_lr()[0])
        if logged:
            logits.retain_grad()
        optimizer.zero_grad()
        loss.backward()
        if callbacks.on_nonfinite and (logged or device.type == "cpu"):
            before = trace.losses[max(start, number - log_every) : number - 1]
            if not isfinite(loss.item()) or (device.type != "cpu" and not before.isfinite().all()):
                callbacks.on_nonfinite(step)
        optimizer.step()
        schedule.step()
        recorder.step(loss, probe)
        if logged:
            callbacks.log(step)
        if number % train.steps_per_epoch(training.batch_size) == 0 or number == steps:
            recorder.test(*evaluate(model, test, training.autocast))
        callbacks.after_step()
