"""The logits as a loss gets them that computes in a precision of its own, as kernels do."""

import numpy as np
import torch
from torch import Tensor

from xent.recording.nudge import random_neighbours


def given_to_loss(logits: Tensor, dtype: torch.dtype, nudge: int, step: int) -> Tensor:
    """Logits `[batch, classes, ...]` rounded to `dtype`, through which gradients flow.

    A nudge moves every one by one unit in the last place of that type, up or down, as drawn from it and the number of
    the step: the rounding that any kernel of this precision may make.
    """
    rounded = logits.to(dtype)
    if nudge == 0:
        return rounded
    bits = np.random.PCG64(np.random.SeedSequence(nudge, spawn_key=(2, step)))
    with torch.no_grad():
        move = random_neighbours(rounded, bits) - rounded  # which is exact
    return rounded + move
