"""From the command to the first training step: python -m benchmarks.start [device=cuda]

Over the time of `python -c "import torch, torchvision"`, from warm disk.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ROUNDS = 5


class EndsAtFirstStep(nn.Module):
    """A loss that ends its process when it is first trained with."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if len(target) > 4:  # not when it is tried out before the run begins
            os._exit(0)
        return cross_entropy(logits, target)


def main() -> None:
    from benchmarks.measure import CONSOLE, interleaved, measured_device, ratio, table, train, typical

    only_import = [sys.executable, "-c", "import torch, torchvision"]
    custom = ("loss=custom", "loss._target_=benchmarks.start.EndsAtFirstStep")
    with tempfile.TemporaryDirectory() as folder:
        variants = {
            "import torch, torchvision": partial(subprocess.run, only_import, check=True),
            "train.py to its first step": partial(train, *custom, f"hydra.run.dir={folder}"),
        }
        for variant in variants.values():
            variant()  # warms the disk
        rounds = interleaved(variants, ROUNDS)
    result = table("Start", "command", "seconds", "ratio", device=measured_device())
    for name in variants:
        result.add_row(name, f"{typical(rounds, name):.2f}", f"{ratio(rounds, name, next(iter(variants))):.2f}")
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
