"""The training loop, and the evaluation of the model."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from xent.recording import Recorder
from xent.recording.nudge import rounded_logits
from xent.recording.processes import rank, world_size
from xent.recording.recorder import evaluating
from xent.training.data import Split, batches
from xent.training.microbatches import microbatch_loss, microbatches, slices, target_counts

PROBE = 256  # test images, the first ones, on which runs are compared
CHUNK = 500  # images per forward pass of an evaluation
WARM_UP = 0.2  # fraction of the steps in which the learning rate rises


@dataclass
class Training:
    """A training, at the step of its recorder. The learning rate and the order of the data follow from that step.

    Attributes:
        loss: `(logits [batch, classes], target [batch]) -> scalar`.
        recorder: made for the total number of steps.
        batch_size: of the whole batch, over all processes and microbatches.
        seed: draws the order of the data and its augmentation.
        autocast: whether logits and loss are computed under bfloat16 autocast.
        loss_dtype: the type of the logits that the loss gets; None for the type that the model computes.
        accumulate: the number of microbatches per process, whose gradients are added up.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    recorder: Recorder
    batch_size: int
    seed: int
    autocast: bool = False
    loss_dtype: torch.dtype | None = None
    accumulate: int = 1


class Step(NamedTuple):
    """A step that was made and recorded, and its last microbatch: the whole batch if it is not divided.

    Attributes:
        number: counted from 1.
        is_logged: whether this step is to be logged.
        logits: `[microbatch, classes]`, in the type that the loss gets. In a logged step, they are as they were before
            the loss, and `logits.grad` is kept.
        target: `[microbatch]`; in a logged step, as it was before the loss.
        loss: what the microbatch added to the loss of the step: its own loss times `share`, if there is one.
        share: see xent.training.microbatches.Microbatch.
        lr: the learning rate of the step.
    """

    number: int
    is_logged: bool
    logits: Tensor
    target: Tensor
    loss: Tensor
    share: Tensor | None
    lr: float


def fit(training: Training, train: Split, test: Split, log_every: int, test_every: int | None = None) -> Iterator[Step]:
    """Train from the step that `training` is at to the last, and record losses, probes and tests.

    The host waits for the device at probe steps and in evaluations: every `test_every` steps, by default after each
    epoch. With several processes, call it on every rank: together they make the steps of one process, each with its
    share of every batch.

    Yields:
        each step, when all of it is recorded. Every `log_every` steps, and in the end, it holds what there is to log.
    """
    model, optimizer, recorder = training.model, training.optimizer, training.recorder
    start, steps, device = recorder.steps_made, recorder.steps, train.labels.device
    nudge = recorder.trace.settings["nudge"]
    schedule = one_cycle(optimizer, steps, start)
    counts = target_counts(training.loss, training.accumulate, train.classes, device)
    rows = slices(training.batch_size, world_size())[rank()] if world_size() > 1 else slice(None)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True) if world_size() > 1 else None
    test_every = test_every or train.steps_per_epoch(training.batch_size)

    probe = partial(predict, model, test, PROBE, training.autocast)
    if start == 0:
        recorder.begin(probe)
    model.train()
    for number, batch in enumerate(batches(train, training.batch_size, training.seed, steps, start, rows), start + 1):
        is_logged = number % log_every == 0 or number == steps
        optimizer.zero_grad()
        losses = []
        for images, target, share, is_last in microbatches(*batch, counts, training.accumulate):
            images, target = recorder.reorder(images, target)
            with parallel.no_sync() if parallel and not is_last else nullcontext():
                with torch.autocast(device.type, torch.bfloat16) if training.autocast else nullcontext():
                    logits = (parallel or model)(images)
                    if training.loss_dtype:
                        logits = rounded_logits(logits, training.loss_dtype, nudge, number)
                    inputs = (logits.clone(), target.clone()) if is_logged else (logits, target)  # may be overwritten
                    loss = microbatch_loss(training.loss, *inputs, share, counts)
                if is_logged:
                    logits.retain_grad()
                loss.backward()
            losses.append(loss.detach())
        lr = float(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        recorder.step(losses[0] if len(losses) == 1 else torch.stack(losses).sum(), probe)
        if (number % test_every == 0 or number == steps) and rank() == 0:
            recorder.test(*evaluate(model, test, training.autocast))
        yield Step(number, is_logged, logits, target, loss.detach(), share, lr)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, made: int = 0) -> LambdaLR:
    """The learning rate schedule: a linear rise to the optimizer's rate, then a linear fall to zero.

    A linear form of the one-cycle policy (Smith, 2018, arXiv:1803.09820). The rise takes `WARM_UP` of the steps.
    torch.optim.lr_scheduler.OneCycleLR has a linear form too, but divides by zero where the rise ends at the first
    step.

    Args:
        steps: in all.
        made: the steps already made under this schedule, before it resumes.
    """
    up = WARM_UP * steps
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / up, (steps - step) / (steps - up)), made - 1)


def evaluate(model: nn.Module, split: Split, autocast: bool = False) -> tuple[float, float]:
    """Loss and accuracy (between 0 and 1) on the whole split.

    The loss is PyTorch's cross entropy in float64, whatever the run trains with: one yardstick for every run.
    """
    logits = predict(model, split, len(split), autocast).cpu().double()
    labels = split.labels.cpu()
    return cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).double().mean().item()


@torch.no_grad()
def predict(model: nn.Module, split: Split, count: int, autocast: bool = False) -> Tensor:
    """The logits `[count, classes]` of the first `count` images, in evaluation mode and without gradients."""
    is_compiled = hasattr(model.forward, "_torchdynamo_orig_callable") or model._compiled_call_impl is not None
    eager = torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()  # else it compiles once more
    with evaluating(model), eager, torch.autocast(split.labels.device.type, torch.bfloat16, enabled=autocast):
        logits = [model(split.normalised(images)) for images in torch.split(split.images[:count], CHUNK)]
    return torch.cat(logits).to(split.mean.dtype)
