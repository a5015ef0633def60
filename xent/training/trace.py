"""The record of a run: what training writes and comparison reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

NO_EFFECT = ("log_every", "checkpoint_every", "on_nonfinite", "data.root")  # settings that a run does not depend on


@dataclass
class Trace:
    """What a run leaves for comparison. While it trains, tensors stay on its device; once loaded, they are on the CPU.

    Attributes:
        settings: every setting of the run by its dotted name, as JSON values.
        losses: the training loss of every step, `[steps]`; step `i`, counted from 1, stands at `i - 1`.
        step: how many steps were made; fewer than there are losses while the run trains.
        probe_logits: the logits of the probe, `[256, classes]`, in evaluation mode, after so many steps.
        tests: loss and accuracy on the test set, after so many steps.
        events: the name of the run's event file.
        folder: where it was loaded from.
        name: of the run among those it is compared with.
    """

    settings: dict[str, Any]
    losses: Tensor
    step: int = 0
    probe_logits: dict[int, Tensor] = field(default_factory=dict)
    tests: dict[int, tuple[float, float]] = field(default_factory=dict)
    events: str = ""
    folder: Path = Path()
    name: str = ""


def is_probe_step(step: int, steps: int) -> bool:
    """Steps 0, 1, 2, 4, 8, ... and the last: gaps between runs grow exponentially, so they are looked at in octaves."""
    return step & (step - 1) == 0 or step == steps


def learned(losses: Tensor) -> bool:
    """Whether losses fell: by more than three standard errors from their first tenth to their last, of 50 at most.

    The noise of a tenth is told by the differences of neighbours, in which its own fall counts little. Losses that are
    NaN did not fall; nor those that were thrown far and came back. Of less than 20 nothing can be told: True.

    Args:
        losses: of the steps that were made, `[steps]`.
    """
    if len(losses) < 20:
        return True
    count = min(max(5, len(losses) // 10), 50)
    first, last = losses[:count].double(), losses[-count:].double()
    variance = sum(part.diff().square().mean() / 2 for part in (first, last))
    return bool(first.mean() - last.mean() > 3 * (variance / count) ** 0.5)
