"""The learning rate over a run."""

import torch
from torch.optim.lr_scheduler import LambdaLR

WARM_UP = 0.2


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, made: int = 0, warm_up: float = WARM_UP) -> LambdaLR:
    """In a straight line up to the optimizer's learning rate for a part of the steps, `warm_up`, then down to zero.

    A linear form of the one-cycle policy (Smith, 2018, arXiv:1803.09820). torch.optim.lr_scheduler.OneCycleLR has
    one too, but divides by zero where the rise ends at the first step. `made` are the steps before, under such a one.
    """
    up = warm_up * steps
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / up, (steps - step) / (steps - up)), made - 1)
