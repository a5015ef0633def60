"""The record of a run: what training writes and comparison reads."""

import json
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xent.errors import BadInput
from xent.files import write_whole

VERSION = 3
FILE = "trace.npz"


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
    losses: Float[Tensor, " steps"]
    step: int = 0
    probe_logits: dict[int, Float[Tensor, "probe classes"]] = field(default_factory=dict)
    tests: dict[int, tuple[float, float]] = field(default_factory=dict)
    events: str = ""
    folder: Path = Path()
    name: str = ""

    def moved(self) -> bool:
        """Whether the losses so far fell: by more than three standard errors from their first tenth to their last,
        of 50 steps at most.

        The noise of a tenth is told by the differences of neighbours, in which its own fall counts little. Losses that
        are NaN did not fall; nor those that were thrown far and came back. Of less than 20 nothing can be told: True.
        """
        count = min(max(5, self.step // 10), 50)
        if self.step < 20:
            return True
        first, last = (part.double() for part in (self.losses[:count], self.losses[self.step - count : self.step]))
        variance = sum(part.diff().square().mean() / 2 for part in (first, last))
        return bool(first.mean() - last.mean() > 3 * (variance / count) ** 0.5)

    def save(self, folder: Path) -> None:
        """Write `trace.npz` of a run that came to its end.

        Raises:
            Stopped: it cannot be written.
        """
        arrays = {
            "version": VERSION,
            "settings": json.dumps(self.settings),
            "losses": self.losses.cpu().double().numpy(),
            "probe_steps": np.array(list(self.probe_logits), dtype=np.int64),
            "probe_logits": np.stack([logits.cpu().numpy() for logits in self.probe_logits.values()]),
            "test_steps": np.array(list(self.tests), dtype=np.int64),
            "tests": np.array(list(self.tests.values()), dtype=np.float64),
            "events": self.events,
        }
        content = BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_whole(folder / FILE, content.getbuffer())

    @classmethod
    def load(cls, folder: Path) -> "Trace":
        """Read a run's trace.

        Raises:
            BadInput: there is none, or it cannot be read, or it is of another version.
        """
        file = folder / FILE
        try:
            with np.load(file, allow_pickle=False) as arrays:
                version = int(arrays["version"])
                if version != VERSION:
                    raise BadInput(f"{file} is of version {version}, this xent reads {VERSION}: train the run again")
                trace = cls(
                    settings=json.loads(str(arrays["settings"])),
                    losses=torch.from_numpy(arrays["losses"]),
                    step=len(arrays["losses"]),
                    probe_logits=dict(zip(arrays["probe_steps"].tolist(), torch.from_numpy(arrays["probe_logits"]))),
                    tests=dict(zip(arrays["test_steps"].tolist(), map(tuple, arrays["tests"].tolist()))),
                    events=str(arrays["events"]),
                    folder=folder.resolve(),
                    name=folder.resolve().name,
                )
            others = [file.name for file in folder.glob("events.out.tfevents.*")]
            if others and trace.events not in others:
                raise BadInput(f"{file} is of another run than {others[0]} beside it: train the run again")
            return trace
        except FileNotFoundError as error:
            raise BadInput(f"{folder} has no {FILE}: expected the folder of a run, or of a sweep") from error
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadInput(f"{file} cannot be read ({error}): train the run again") from error


def is_probe_step(step: int, steps: int) -> bool:
    """Steps 0, 1, 2, 4, 8, ... and the last: gaps between runs grow exponentially, so they are looked at in octaves."""
    return step & (step - 1) == 0 or step == steps
