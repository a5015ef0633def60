"""What is told of a logged step, and the loss of a run held against the reference while it trains."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from xent.recording.device import kind
from xent.training.loop import Step


def scalars(step: Step, model: nn.Module, reference: nn.Module) -> dict[str, float]:
    """Loss, accuracy (between 0 and 1), gradient norm, learning rate and parity of a step, by TensorBoard's tags.

    Args:
        reference: the loss to hold the step's against.
    """
    accuracy = (step.logits.argmax(dim=1) == step.target).float().mean()
    gradient_norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    figures = torch.stack([step.loss.detach(), accuracy, gradient_norm]).tolist()
    found = dict(zip(("train/loss", "train/accuracy", "train/gradient_norm"), figures))
    found |= parity(step.logits, step.target, step.loss, reference)
    return found | {"train/learning_rate": float(step.lr)}


def parity(logits: Tensor, target: Tensor, value: Tensor, reference: nn.Module) -> dict[str, float]:
    """Relative errors of a loss and of its gradient, and of the reference's own, against the reference in float64.

    Args:
        logits: `[batch, classes]`, after `value.backward()`, with their gradient retained.
        target: class indices `[batch]`.
        value: what the run's loss made of them, a scalar.
        reference: the loss to hold it against.

    Returns:
        `train_parity/loss_error` and `train_parity/gradient_error`, and the same of the reference in the precision of
        the logits.
    """
    assert logits.grad is not None
    exact_device = logits.device if kind(logits.device).float64 else torch.device("cpu")
    exact = _value_and_gradient(reference, logits.to(exact_device, torch.float64), target.to(exact_device))
    ours = value.detach(), logits.grad
    theirs = _value_and_gradient(reference, logits, target)
    values, gradients = (torch.stack([each.to(exact[0]) for each in pair]) for pair in zip(ours, theirs))
    loss_errors = (values - exact[0]).abs() / exact[0].abs()
    norm = torch.linalg.vector_norm
    gradient_errors = norm(gradients - exact[1], dim=(1, 2)) / norm(exact[1])
    tags = ("loss_error", "reference_loss_error", "gradient_error", "reference_gradient_error")
    return {
        f"train_parity/{tag}": error for tag, error in zip(tags, torch.cat([loss_errors, gradient_errors]).tolist())
    }


def _value_and_gradient(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    if any(True for _ in loss.buffers()):  # the weights of classes
        loss = deepcopy(loss).to(logits)
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]
