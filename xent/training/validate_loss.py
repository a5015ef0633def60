"""What is asked of anyone's loss before it is trained with."""

from collections.abc import Callable

import torch
from torch import Tensor

from xent.training.errors import BadInput


def validate_loss(loss: Callable[[Tensor, Tensor], Tensor], classes: int, dtype: torch.dtype = torch.float32) -> None:
    """Try a loss on two rows of logits, so that one that cannot be trained with is refused before training begins.

    BadInput if it does not make a scalar tensor with a gradient of logits `[2, classes]` and class indices `[2]`.
    """
    logits = torch.zeros(2, classes, dtype=dtype, requires_grad=True)
    given = f"the loss of logits [2, {classes}] and class indices [2]"
    try:
        value = loss(logits, torch.arange(2))
    except Exception as error:  # anyone's loss may raise anything
        raise BadInput(f"{given} cannot be computed ({type(error).__name__}: {error})") from error
    if not isinstance(value, Tensor):
        raise BadInput(f"{given} is a {type(value).__name__}: expected a tensor of one number, with its gradient")
    if value.ndim > 0:
        raise BadInput(f"{given} is of shape {tuple(value.shape)}: expected one number, as their mean")
    if not value.requires_grad:
        raise BadInput(f"{given} has no gradient: make it by tensor operations alone, without item() or detach()")
