"""Diagnostics of a step: scalars to log, parity of the loss with the reference, the first non-finite loss."""

from copy import deepcopy
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from xent.recording.device import has_float64
from xent.recording.errors import Stopped
from xent.recording.files import write_whole
from xent.training.data import Split, batches
from xent.training.loop import Step, Training
from xent.training.validate_loss import Loss

NONFINITE = "nonfinite.pt"


def scalars(step: Step, loss: float, model: nn.Module, reference: nn.Module | None) -> dict[str, float]:
    """Loss, accuracy, gradient norm, learning rate and parity of a logged step, by TensorBoard tag.

    Accuracy (between 0 and 1) and parity are those of the last microbatch.

    Args:
        loss: of the whole batch.
        reference: the loss to compare the step's with; without it there is no parity.
    """
    assert step.logits.grad is not None
    tags = {
        "train/loss": loss,
        "train/accuracy": (step.logits.argmax(dim=1) == step.target).float().mean().item(),
        "train/gradient_norm": get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item(),
        "train/learning_rate": step.lr,
    }
    if reference is None:
        return tags
    share = 1.0 if step.share is None else step.share
    return tags | parity(step.logits, step.target, step.loss / share, step.logits.grad / share, reference)


def parity(logits: Tensor, target: Tensor, value: Tensor, gradient: Tensor, reference: nn.Module) -> dict[str, float]:
    """Relative errors of a loss and its gradient, and of the reference's own, against the reference in float64.

    Args:
        logits: `[batch, classes]`.
        target: class indices `[batch]`.
        value: the run's loss of these, a scalar.
        gradient: its gradient with respect to the logits, `[batch, classes]`.
        reference: the loss to compare it with.

    Returns:
        `train_parity/loss_error` and `train_parity/gradient_error`; and, as `train_parity/reference_...`, the same
        errors of the reference in the precision of the logits.
    """
    device = logits.device if has_float64(logits.device) else torch.device("cpu")
    exact_logits = logits.to(device, torch.float64)
    exact, exact_gradient = value_and_gradient(deepcopy(reference).to(exact_logits), exact_logits, target.to(device))
    pairs = {"": (value, gradient), "reference_": value_and_gradient(deepcopy(reference).to(logits), logits, target)}
    errors = {}
    for name, (ours, ours_gradient) in pairs.items():
        distance = (ours_gradient.to(exact_gradient) - exact_gradient).norm() / exact_gradient.norm()
        errors[f"train_parity/{name}loss_error"] = ((ours.to(exact) - exact).abs() / exact.abs()).item()
        errors[f"train_parity/{name}gradient_error"] = distance.item()
    return errors


def value_and_gradient(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of a loss at these logits. The logits are not written to."""
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf.clone(), target.clone())
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach().as_subclass(Tensor), gradient.as_subclass(Tensor)


def stop_if_nonfinite(training: Training, step: Step, start: int, train: Split, folder: Path) -> None:
    """Stop at a non-finite loss: save the first such batch as `nonfinite.pt`.

    Args:
        step: the one just made. The message gives the size of its logits and gradients.
        start: losses are checked after this step. Earlier ones may be non-finite, by on_nonfinite=continue.
        train: the split that the batches are drawn from.
        folder: where to write the dump.

    Raises:
        Stopped: a loss is NaN or infinite, or the dump cannot be written.
    """
    losses = training.recorder.trace.losses[start : step.number]
    if losses.isfinite().all():
        return
    index = int(losses.isfinite().int().argmin())
    number = start + index + 1
    images, target = next(batches(train, training.batch_size, training.seed, number, number - 1))
    content = BytesIO()
    logits = {"logits": step.logits.detach()} if step.number == number else {}
    dump = {"images": images, "target": target, "loss": losses[index], **logits}
    torch.save({name: tensor.cpu() for name, tensor in dump.items()} | {"step": number}, content)
    write_whole(folder / NONFINITE, content)
    gradients = [p.grad.abs().max().item() for p in training.model.parameters() if p.grad is not None]
    seen = f", seen at step {step.number}" if step.number > number else ""
    what = f"the loss is {losses[index].item()} at step {number}{seen}"
    sizes = f"largest logit {step.logits.abs().max().item():.4g}, largest gradient {max(gradients, default=0.0):.4g}"
    advice = "train with a smaller optimizer.lr, or add on_nonfinite=continue"
    raise Stopped(f"{what}: learning rate {step.lr:.4g}, {sizes}; the batch is in {folder / NONFINITE}; {advice}")
