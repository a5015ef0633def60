"""The training loop."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xent.recording import Recorder
from xent.recording.device import kind
from xent.recording.processes import is_first, mean_over_processes, process, processes
from xent.training.data import Split, batches
from xent.training.evaluation import PROBE, evaluate, predict
from xent.training.loss_precision import given_to_loss
from xent.training.parts import Part, Parts, slices, whole_batch
from xent.training.schedule import WARM_UP, one_cycle


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
    accumulate: int = 1  # parts of a process' batch, whose gradients are added up
    warm_up: float = WARM_UP  # the part of the steps in which the learning rate rises


class Step(NamedTuple):
    """A step whose gradients are computed, as `number`, counted from 1.

    Where it is logged, `logits`, in the type that the loss gets them, and `target` are as they were before the loss,
    and `logits.grad` is kept; all are of the whole batch, on every process.
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
        on_nonfinite: takes the step at which a loss is seen to be NaN or infinite, before the weights change. Where one
            would have to wait for each loss, for a GPU or other processes, they are looked at when a step is logged.
    """

    log: Callable[[Step], None] = lambda step: None
    after_step: Callable[[], None] = lambda: None
    on_nonfinite: Callable[[Step], None] | None = None


NO_CALLBACKS = Callbacks()


def fit(
    training: Training,
    train: Split,
    test: Split,
    log_every: int,
    callbacks: Callbacks = NO_CALLBACKS,
    test_every: int | None = None,
) -> None:
    """Train from the step that `training` is at to the last, and record losses, probe and tests.

    The host waits for the device only to log, every `log_every` steps, at probe steps and to evaluate, every
    `test_every` steps, or else after each epoch. With several processes, call it in each: they make the steps of one,
    each with its share of every batch.
    """
    model, optimizer, recorder = training.model, training.optimizer, training.recorder
    device, start, steps = train.labels.device, recorder.steps_made, recorder.steps
    schedule = one_cycle(optimizer, steps, start, training.warm_up)
    forward = across_processes(model)
    divided = Parts.of(training.loss, training.accumulate, train.classes, device)
    own = slices(training.batch_size, processes())[process()] if processes() > 1 else slice(None)
    test_every = test_every or train.steps_per_epoch(training.batch_size)
    seen_at_once = kind(device).immediate and processes() == 1  # whether a loss is no number

    def probe() -> Tensor:
        return predict(model, test, PROBE, training.autocast)

    if start == 0:
        recorder.begin(probe)
    model.train()
    for number, batch in enumerate(batches(train, training.batch_size, training.seed, steps, start, own), start + 1):
        logged = number % log_every == 0 or number == steps
        optimizer.zero_grad()
        made = [
            backward(training, forward, divided, part, logged, last=i == training.accumulate)
            for i, part in enumerate(divided.parts(*batch), start=1)
        ]
        target, logits, loss = made[0] if len(made) == 1 else joined(made)
        step = Step(number, target, logits, loss, schedule.get_last_lr()[0])
        if logged and processes() > 1:
            step = of_whole_batch(step, training.batch_size)
        if callbacks.on_nonfinite and (logged or seen_at_once):
            before = recorder.trace.losses[max(start, number - log_every) : number - 1]
            if not isfinite(step.loss.item()) or (not seen_at_once and not before.isfinite().all()):
                callbacks.on_nonfinite(step)
        optimizer.step()
        schedule.step()
        recorder.step(loss, probe)
        if logged:
            callbacks.log(step)
        if (number % test_every == 0 or number == steps) and is_first():
            recorder.test(*evaluate(model, test, training.autocast))
        callbacks.after_step()


def across_processes(model: nn.Module) -> nn.Module:
    """The model, with its gradients averaged over the processes if there are several."""
    if processes() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def backward(
    training: Training, forward: nn.Module, divided: Parts, part: Part, logged: bool, last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Target, logits and loss of a part, after its backward pass; processes wait for each other after the last."""
    recorder = training.recorder
    images, target = recorder.reorder(part.images, part.target)
    waits = nullcontext() if last or not isinstance(forward, DistributedDataParallel) else forward.no_sync()
    with waits:
        with torch.autocast(images.device.type, torch.bfloat16) if training.autocast else nullcontext():
            logits = forward(images)
            if training.loss_dtype:
                nudge = recorder.trace.settings["nudge"]
                logits = given_to_loss(logits, training.loss_dtype, nudge, recorder.steps_made + 1)
            given = (logits.clone(), target.clone()) if logged else (logits, target)  # some losses write over them
            loss = divided.loss(training.loss, *given, part.share)
        if logged:
            logits.retain_grad()
        loss.backward()
    return target, logits, loss


def joined(made: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Parts that were made one after the other as one, with the gradient of its logits where these keep it."""
    targets, logits, losses = zip(*made)
    whole = torch.cat([each.detach() for each in logits])
    if logits[0].retains_grad:
        whole.grad = torch.cat([each.grad for each in logits])
    return torch.cat(targets), whole, torch.stack(losses).detach().sum()


def of_whole_batch(step: Step, batch_size: int) -> Step:
    """A logged step with what the other processes have of it."""
    loss = mean_over_processes(step.loss.detach())
    logits = whole_batch(step.logits.detach(), batch_size)
    assert step.logits.grad is not None
    logits.grad = whole_batch(step.logits.grad / processes(), batch_size)
    return step._replace(target=whole_batch(step.target, batch_size), logits=logits, loss=loss())
