"""What is asked of anyone's loss before it is trained with."""

from collections.abc import Callable

import torch
from torch import Tensor

from xent.training.errors import BadInput

Loss = Callable[[Tensor, Tensor], Tensor]
SCALE = 8.0  # a power of two, by which a gradient is multiplied without rounding


def trial_batch(
    classes: int, dtype: torch.dtype, device: torch.device, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Logits `[4, classes]` and class indices `[4]`: undecided rows, a sure one and one that is sure and wrong.

    Args:
        ignore_index: of the targets that will be ignored, which the last one is then.
    """
    logits = torch.zeros(4, classes, dtype=dtype, device=device)
    logits[1, 1] = logits[2, 0] = 30
    target = torch.tensor([0, 1, 1, classes - 1 if ignore_index is None else ignore_index], device=device)
    return logits, target


def validate_loss(loss: Loss, logits: Tensor, target: Tensor) -> None:
    """Try a loss on a few rows, so that one that cannot be trained with is refused before training begins.

    BadInput if it does not make a scalar tensor of them, or its gradient is not that from above times its own.
    """
    kind = "probabilities" if target.is_floating_point() else "class indices"
    dtype = str(logits.dtype).removeprefix("torch.")
    given = f"the loss of {dtype} logits {list(logits.shape)} and {kind} {list(target.shape)}"
    if isinstance(loss, type):
        raise BadInput(f"the loss is the class {loss.__name__}: expected an instance of it, {loss.__name__}()")
    gradient = _gradient(loss, logits, target, 1.0, given)
    scaled = _gradient(loss, logits, target, SCALE, given)
    if not torch.allclose(scaled, SCALE * gradient, rtol=1e-2, equal_nan=True):
        raise BadInput(
            f"{given}, times {SCALE:.0f}, has another gradient than {SCALE:.0f} times its own: let its backward pass "
            "multiply by the gradient from above, which loss scaling and accumulation need"
        )


def _gradient(loss: Loss, logits: Tensor, target: Tensor, scale: float, given: str) -> Tensor:
    """The gradient of the logits, of the loss times `scale`."""
    leaf = logits.clone().requires_grad_()
    try:
        with torch.random.fork_rng(devices=[]):  # twice the same, also of a loss that draws
            torch.manual_seed(0)
            value = loss(leaf.clone(), target.clone())  # some losses write over their logits
    except Exception as error:  # anyone's loss may raise anything
        raise BadInput(f"{given} cannot be computed ({_in_one_line(error)})") from error
    if not isinstance(value, Tensor):
        raise BadInput(f"{given} is a {type(value).__name__}: expected a tensor of one number, with its gradient")
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
