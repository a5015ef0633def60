"""The trace of a training: what is recorded of it, and comparison reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from xent.recording.fingerprint import Fingerprint

# Settings that a run does not depend on.
NO_EFFECT = ("log_every", "test_every", "checkpoint_every", "on_nonfinite", "data.root", "timeout")


@dataclass
class Trace:
    """What a run leaves for comparison.

    Attributes:
        settings: every setting of the run by its dotted name, as JSON values.
        losses: the training loss of every step, `[steps]`; step `i`, counted from 1, stands at `i - 1`. While the run
            trains, they are on its device.
        step: how many steps were made; fewer than there are losses while the run trains.
        probes: the outputs of the probe, of any one shape, after so many steps; on the CPU.
        tests: loss and accuracy on data that it is not trained on, after so many steps.
        fingerprints: of the first weights and of some batches, which matched runs have in common.
        events: the name of the run's event file.
        folder: where it was loaded from.
        name: of the run among those it is compared with.
    """

    settings: dict[str, Any]
    losses: Tensor
    step: int = 0
    probes: dict[int, Tensor] = field(default_factory=dict)
    tests: dict[int, tuple[float, float]] = field(default_factory=dict)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    events: str = ""
    folder: Path = Path()
    name: str = ""

    @property
    def first_outputs(self) -> Tensor:
        """Those of the first probe, of the shape and type of all."""
        return next(iter(self.probes.values()))


def is_probe_step(step: int, steps: int) -> bool:
    """Steps 0, 1, 2, 4, 8, ... and the last: gaps between runs grow exponentially, and powers of two show that."""
    return step & (step - 1) == 0 or step == steps


def learned(losses: Tensor) -> bool:
    """Whether losses fell: by more than three standard errors from their first tenth to their last, of 50 at most.

    The noise of a tenth is estimated from the differences of consecutive losses, which its own fall hardly affects.
    Losses that are NaN did not fall, nor did losses that jumped and came back. With fewer than 20 losses: True.

    Args:
        losses: of the steps that were made, `[steps]`.
    """
    if len(losses) < 20:
        return True
    count = min(max(5, len(losses) // 10), 50)
    first, last = losses[:count].double(), losses[-count:].double()
    variance = sum(part.diff().square().mean() / 2 for part in (first, last))
    return bool(first.mean() - last.mean() > 3 * (variance / count) ** 0.5)
