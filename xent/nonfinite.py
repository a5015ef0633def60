"""What is left when the loss is no number any more."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xent.errors import Stopped
from xent.files import write_whole

FILE = "nonfinite.pt"


class Nonfinite(NamedTuple):
    """A step whose loss is NaN or infinite. `logits` and the gradients of `model` are of the step `seen` at."""

    step: int
    seen: int
    lr: float | Tensor
    loss: Tensor
    images: Tensor
    target: Tensor
    logits: Tensor
    model: nn.Module


def stop(folder: Path) -> Callable[[Nonfinite], None]:
    """A function that saves the batch as `nonfinite.pt` and raises Stopped with what is known."""

    def save_and_raise(found: Nonfinite) -> None:
        batch = {name: getattr(found, name).detach().cpu() for name in ("images", "target", "logits", "loss")}
        content = BytesIO()
        torch.save(batch | {"step": found.step}, content)
        write_whole(folder / FILE, content.getbuffer())
        gradient = max((_largest(p.grad) for p in found.model.parameters() if p.grad is not None), default=0.0)
        seen = "" if found.seen == found.step else f" when seen at step {found.seen}"
        raise Stopped(
            f"the loss is {found.loss.item()} at step {found.step}: learning rate {found.lr:.4g}, largest logit "
            f"{_largest(found.logits):.4g}, largest gradient {gradient:.4g}{seen}; the batch is in {folder / FILE}; "
            "train with a smaller optimizer.lr, or with on_nonfinite=continue"
        )

    return save_and_raise


def _largest(values: Tensor) -> float:
    """The largest magnitude; NaN if there is one."""
    return values.detach().abs().max().item()
