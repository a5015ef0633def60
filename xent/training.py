"""The training loop."""

from collections.abc import Callable
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LRScheduler

from xent.data import Split, batches
from xent.nonfinite import Nonfinite
from xent.parity import parity
from xent.trace import Trace, is_probe_step

PROBE = 256  # the first images of the test set, on which runs are compared
CHUNK = 500  # images that evaluation takes at once


def fit(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    train: Split,
    test: Split,
    trace: Trace,
    *,
    batch_size: int,
    seed: int,
    log_every: int,
    autocast: bool = False,
    reference: nn.Module | None = None,
    log: Callable[[int, dict[str, float]], None] = lambda step, scalars: None,
    after_step: Callable[[], None] = lambda: None,
    on_nonfinite: Callable[[Nonfinite], None] | None = None,
) -> None:
    """Train `model` from step `trace.step` on for as many steps as `trace` has room for, and record them there.

    The host waits for the device only to log, every `log_every` steps, and to evaluate, after each epoch.

    Args:
        loss: `(logits [batch, classes], target [batch]) -> scalar`.
        seed: draws the order of the data and its augmentation.
        autocast: compute logits and loss under bfloat16 autocast.
        reference: the loss that `loss` is held against on the logits of every logged step; see xent.parity.
        log: takes the number of steps made and the scalars then known, by their TensorBoard tags.
        after_step: is called when all of a step is recorded, and may raise to stop there.
        on_nonfinite: is called when the loss is NaN or infinite, before the weights change; on other devices than the
            CPU, where the host would have to wait for every loss, at the next logged step.
    """
    device = train.labels.device
    steps = len(trace.losses)
    steps_per_epoch = train.steps_per_epoch(batch_size)
    if trace.step == 0:
        trace.probe_logits[0] = predict(model, test, PROBE, autocast)
    model.train()
    finite = trace.step  # as many losses as are known to be
    for step, (images, target) in enumerate(batches(train, batch_size, seed, steps, trace.step), trace.step + 1):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = model(images)
            value = loss(logits, target)
        logged = step % log_every == 0 or step == steps
        if logged and reference is not None:
            logits.retain_grad()
        optimizer.zero_grad()
        value.backward()
        trace.losses[step - 1] = value.detach()
        if on_nonfinite and (logged or device.type == "cpu"):
            # on the CPU there are no others, and `all` of none would cost more than the rest
            others = trace.losses[finite : step - 1]
            if not (isfinite(value.item()) and (len(others) == 0 or others.isfinite().all())):
                first = finite + int(trace.losses[finite:step].isfinite().int().argmin())
                batch = next(batches(train, batch_size, seed, first + 1, first))
                lr = schedule.get_last_lr()[0]
                on_nonfinite(Nonfinite(first + 1, step, lr, trace.losses[first], *batch, logits, model))
            finite = step
        optimizer.step()
        if logged:
            accuracy = (logits.argmax(dim=1) == target).float().mean()
            gradient_norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            at_step = torch.stack([value.detach(), accuracy, gradient_norm]).tolist()
            scalars = dict(zip(("train/loss", "train/accuracy", "train/gradient_norm"), at_step))
            if reference is not None:
                scalars |= parity(logits, target, value, reference)
            log(step, scalars | {"train/learning_rate": schedule.get_last_lr()[0]})
        schedule.step()
        if is_probe_step(step, steps):
            trace.probe_logits[step] = predict(model, test, PROBE, autocast)
        if step % steps_per_epoch == 0 or step == steps:
            trace.tests[step] = evaluate(model, test, autocast)
            log(step, dict(zip(("test/loss", "test/accuracy"), trace.tests[step])))
        trace.step = step
        after_step()


def evaluate(model: nn.Module, split: Split, autocast: bool = False) -> tuple[float, float]:
    """Loss and accuracy (between 0 and 1) on the whole split.

    The loss is PyTorch's cross entropy in float64, whatever the run trains with: one yardstick for every run.
    """
    logits = predict(model, split, len(split), autocast).cpu().double()
    labels = split.labels.cpu()
    return cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).double().mean().item()


@torch.no_grad()
def predict(model: nn.Module, split: Split, count: int, autocast: bool = False) -> Float[Tensor, "count classes"]:
    """The logits of the first `count` images, in evaluation mode."""
    training = model.training
    model.eval()
    eager = torch.compiler.set_stance("force_eager")  # a compiled model would be compiled anew for evaluation
    with eager, torch.autocast(split.labels.device.type, torch.bfloat16, enabled=autocast):
        logits = [model(split.normalised(images)) for images in torch.split(split.images[:count], CHUNK)]
    model.train(training)
    return torch.cat(logits).to(split.mean.dtype)
