"""A loss in a precision of its own, as kernels compute it, inside a training in float64."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from xent.training.nudge import neighbours


class InPrecision(nn.Module):
    """A loss that gets its logits, and targets that are probabilities, in `dtype`.

    A nudge moves every logit by one unit in the last place of that type, anew at every step: the rounding that any
    kernel of this precision may make.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, nudge: int) -> None:
        super().__init__()
        self.loss = loss
        self.dtype = dtype
        self.bits = np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(2,))) if nudge > 0 else None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        rounded = logits.to(self.dtype)
        if self.bits is not None:
            step = neighbours(rounded.detach(), self.bits) - rounded.detach()
            rounded = rounded + step  # which is exact
        return self.loss(rounded, target.to(self.dtype) if target.is_floating_point() else target).double()
