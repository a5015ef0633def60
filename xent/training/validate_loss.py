"""What is asked of anyone's loss before it is trained with."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor, nn

from xent.recording.device import drawing_from
from xent.recording.errors import BadInput

Loss = Callable[[Tensor, Tensor], Tensor]
SCALE = 8.0  # a power of two, by which a gradient is multiplied without rounding


def trial_logits(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, sure: float = 30.0) -> Tensor:
    """Logits `[batch, classes, ...]`: undecided rows, and between them those that are sure of one class or another."""
    logits = torch.zeros(shape, dtype=dtype, device=device)
    rows = torch.arange(1, shape[0], 2, device=device)
    logits[rows, rows // 2 % shape[1]] = sure
    return logits


def in_working_type(loss: nn.Module, dtype: torch.dtype, logits: Tensor, target: Tensor, name: str) -> nn.Module:
    """The loss with weights of a type that it takes beside these logits: theirs, or else as they are.

    Raises:
        BadInput: it cannot be trained with; see `validate_loss`.
    """
    as_given = deepcopy(loss)
    try:
        loss = loss.to(dtype)
        validate_loss(loss, logits, target, name)
        return loss
    except BadInput:
        with suppress(BadInput):
            validate_loss(as_given, logits, target, name)
            return as_given
        raise


def validate_loss(loss: Loss, logits: Tensor, target: Tensor, name: str = "the loss") -> None:
    """Try a loss on a few rows, so that one that cannot be trained with is refused before training begins.

    BadInput if it does not make a scalar tensor of them, or its gradient is not that from above times its own.
    """
    kind = "probabilities" if target.is_floating_point() else "class indices"
    dtype = str(logits.dtype).removeprefix("torch.")
    given = f"{name} of {dtype} logits {list(logits.shape)} and {kind} {list(target.shape)}"
    if isinstance(loss, type):
        raise BadInput(f"{name} is the class {loss.__name__}: expected an instance of it, {loss.__name__}()")
    if not callable(loss):
        raise BadInput(f"{name} is a {type(loss).__name__}: expected a torch.nn.Module, or a function (logits, target)")
    gradient = _gradient(_copied(loss), logits, target, 1.0, given)
    scaled = _gradient(_copied(loss), logits, target, SCALE, given)
    if not torch.allclose(scaled, SCALE * gradient, rtol=1e-2, equal_nan=True):
        raise BadInput(
            f"{given}, times {SCALE:.0f}, has another gradient than {SCALE:.0f} times its own: let its backward pass "
            "multiply by the gradient from above, which loss scaling and accumulation need"
        )


def _copied(loss: Loss) -> Loss:
    """A copy, so that a loss that counts its calls is left at the first, where it can be copied."""
    with suppress(Exception):
        return deepcopy(loss)
    return loss


def _gradient(loss: Loss, logits: Tensor, target: Tensor, scale: float, given: str) -> Tensor:
    """The gradient of the logits, of the loss times `scale`."""
    leaf = logits.clone().requires_grad_()
    try:
        with drawing_from(0, logits.device):  # twice the same, also of a loss that draws
            value = loss(leaf.clone(), target.clone())  # some losses write over their logits
    except Exception as error:  # anyone's loss may raise anything
        raise BadInput(f"{given} cannot be computed ({_in_one_line(error)})") from error
    if not isinstance(value, Tensor) or value.is_complex():
        kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(f"{given} is a {kind}: expected a tensor of one number, with its gradient")
    if value.ndim > 0:
        raise BadInput(f"{given} is of shape {tuple(value.shape)}: expected one number, as their mean")
    if not value.requires_grad:
        raise BadInput(f"{given} has no gradient: make it by tensor operations alone, without item() or detach()")
    try:
        found = torch.autograd.grad(value, leaf, torch.full_like(value, scale), allow_unused=True)[0]
    except Exception as error:
        raise BadInput(f"the gradient of {given} cannot be computed ({_in_one_line(error)})") from error
    return torch.zeros_like(leaf) if found is None else found


def _in_one_line(error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
