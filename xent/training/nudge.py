"""The smallest change to a model that there is: what two correct runs of one training may differ by at the start."""

import torch
from torch import nn


@torch.no_grad()
def nudge(model: nn.Module, seed: int) -> None:
    """Move every parameter to a neighbouring number of its type, one ULP up or down, as drawn from `seed`; by 0, none.

    The draw is from a CPU generator: a nudge is the same on every device.
    """
    if seed == 0:
        return
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        up = torch.rand(parameter.shape, generator=generator) < 0.5
        towards = torch.where(up, torch.inf, -torch.inf).to(parameter)
        parameter.copy_(torch.nextafter(parameter, towards))
