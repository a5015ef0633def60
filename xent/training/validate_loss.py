"""Checks of anyone's loss before it is trained with, and copies of it, so that it is left as it is."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from xent.recording.device import seeded
from xent.recording.errors import BadInput, in_one_line, where_raised

Loss = Callable[[Tensor, Tensor], Tensor]
SCALE = 8.0  # a power of two, by which a gradient is multiplied without rounding


def trial_logits(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, sure: float = 30.0) -> Tensor:
    """Logits `[batch, classes, ...]`: rows that are undecided, and between them rows confident of one class or another.

    Args:
        sure: the logit of the class that a row is confident of; all others are 0.
    """
    logits = torch.zeros(shape, dtype=dtype, device=device)
    rows = torch.arange(1, shape[0], 2, device=device)
    logits[rows, rows // 2 % shape[1]] = sure
    return logits


def copied(loss: Loss) -> Loss:
    """A copy of the loss. What of a module cannot be copied, such as a lock, is shared with it.

    Raises:
        BadInput: it is a module that cannot be copied, and has weights that training would change.
    """
    memo: dict[int, Any] = {}
    try:
        copy = deepcopy(loss, memo)
    except Exception:  # anyone's object may raise anything
        memo = {id(part): part for part in _parts(loss) if not _is_copyable(part)}
        try:
            copy = deepcopy(loss, memo)
        except Exception as error:
            if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
                advice = "give it as a function, lambda logits, target: loss(logits, target)"
                raise BadInput(f"the loss cannot be copied ({in_one_line(error)}): {advice}") from error
            return lambda logits, target: loss(logits, target)  # a function is not moved to another type or device
    if isinstance(loss, nn.Module) and isinstance(copy, nn.Module):
        for ours, theirs in zip(copy.parameters(), loss.parameters()):
            for name, value in vars(theirs).items():  # which deepcopy of a parameter leaves out
                vars(ours).setdefault(name, deepcopy(value, memo) if _is_copyable(value) else value)
    return copy


def _parts(loss: Loss) -> Iterator[Any]:
    """What the modules of a loss hold, but for modules."""
    for module in loss.modules() if isinstance(loss, nn.Module) else ():
        for value in vars(module).values():
            parts = value.values() if isinstance(value, dict) else [value]
            yield from (part for part in parts if not isinstance(part, nn.Module))


def _is_copyable(part: Any) -> bool:
    try:
        deepcopy(part)
        return True
    except Exception:
        return False


def in_working_type(loss: nn.Module, dtype: torch.dtype, logits: Tensor, target: Tensor, name: str) -> nn.Module:
    """The loss with its weights cast to `dtype`, or as they are if it only takes these logits so.

    Args:
        loss: a copy of it is cast.
        dtype: the type to try first.
        name: what messages call the loss.

    Raises:
        BadInput: the loss cannot be trained with; see `validate_loss`.
    """
    typed = copied(loss)
    if not isinstance(typed, nn.Module):  # it cannot be copied
        validate_loss(loss, logits, target, name)
        return loss
    try:
        typed = typed.to(dtype)
        validate_loss(typed, logits, target, name)
        return typed
    except BadInput:
        with suppress(BadInput):
            validate_loss(loss, logits, target, name)
            return loss
        raise


def validate_loss(loss: Loss, logits: Tensor, target: Tensor, name: str = "the loss") -> None:
    """Try a loss on a few rows, so that one that cannot be trained with is refused before training begins.

    Args:
        logits: `[batch, classes, ...]`, as in training.
        target: as in training.
        name: what messages call the loss.

    Raises:
        BadInput: the loss cannot be called, it returns no scalar tensor, or its gradient is not proportional to the
            incoming gradient.
    """
    kind = "probabilities" if target.is_floating_point() else "class indices"
    dtype = str(logits.dtype).removeprefix("torch.")
    call = f"{name} of {dtype} logits {list(logits.shape)} and {kind} {list(target.shape)}"
    if isinstance(loss, type):
        raise BadInput(f"{name} is the class {loss.__name__}: expected an instance of it, {loss.__name__}()")
    if not callable(loss):
        raise BadInput(f"{name} is a {type(loss).__name__}: expected a torch.nn.Module, or a function (logits, target)")
    expected = SCALE * _gradient(copied(loss), logits, target, 1.0, call)
    scaled = _gradient(copied(loss), logits, target, SCALE, call)
    tiny = 1e-2 * expected.abs().nan_to_num(0, 0, 0).max().item()  # of these, a half type keeps few digits
    if not torch.allclose(scaled, expected, rtol=1e-2, atol=tiny, equal_nan=True):
        what = f"{call}, times {SCALE:.0f}, has another gradient than {SCALE:.0f} times its own"
        advice = "let its backward pass multiply by the gradient from above, which loss scaling and accumulation need"
        raise BadInput(f"{what}: {advice}")


def _gradient(loss: Loss, logits: Tensor, target: Tensor, scale: float, call: str) -> Tensor:
    """The gradient of the loss times `scale`, with respect to the logits.

    Args:
        call: what was tried, for messages.

    Raises:
        BadInput: there is no such gradient.
    """
    leaf = logits.clone().requires_grad_()
    try:
        with seeded(0, logits.device):  # a loss that draws gets the same numbers each time
            value = loss(leaf.clone(), target.clone())  # some losses overwrite their logits
    except Exception as error:  # anyone's loss may raise anything
        raise BadInput(f"{call} cannot be computed ({where_raised(error)})") from error
    if not isinstance(value, Tensor) or value.is_complex():
        kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(f"{call} is a {kind}: expected a tensor of one number, with its gradient")
    if value.ndim > 0:
        expected = "one number, as their mean" if value.numel() > 1 else "a scalar, of shape (), as by .squeeze()"
        raise BadInput(f"{call} is of shape {tuple(value.shape)}: expected {expected}")
    if not value.requires_grad:
        raise BadInput(f"{call} has no gradient: make it by tensor operations alone, without item() or detach()")
    try:
        (gradient,) = torch.autograd.grad(value, leaf, torch.full_like(value, scale), materialize_grads=True)
    except Exception as error:
        raise BadInput(f"the gradient of {call} cannot be computed ({where_raised(error)})") from error
    return gradient
