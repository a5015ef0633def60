"""The record of a run: what training writes and comparison reads."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xent.errors import BadInput

VERSION = 2
FILE = "trace.npz"


@dataclass
class Trace:
    """What a run leaves for comparison. While it trains, tensors stay on its device; once loaded, they are on the CPU.

    Attributes:
        settings: every setting of the run by its dotted name, as JSON values.
        losses: the training loss of every step, `[steps]`; step `i`, counted from 1, stands at `i - 1`.
        step: how many steps were made; fewer than there are losses if the run was stopped.
        probe_logits: the logits of the probe, `[256, classes]`, in evaluation mode, after so many steps.
        tests: loss and accuracy on the test set, after so many steps.
        folder: where it was loaded from.
        name: of the run among those it is compared with.
    """

    settings: dict[str, Any]
    losses: Float[Tensor, " steps"]
    step: int = 0
    probe_logits: dict[int, Float[Tensor, "probe classes"]] = field(default_factory=dict)
    tests: dict[int, tuple[float, float]] = field(default_factory=dict)
    folder: Path = Path()
    name: str = ""

    def save(self, folder: Path) -> None:
        """Write `trace.npz`, whole or not at all."""
        arrays = {
            "version": VERSION,
            "settings": json.dumps(self.settings),
            "steps": len(self.losses),
            "losses": self.losses[: self.step].cpu().double().numpy(),
            "probe_steps": np.array(list(self.probe_logits), dtype=np.int64),
            "probe_logits": np.stack([logits.cpu().numpy() for logits in self.probe_logits.values()])
            if self.probe_logits
            else np.empty((0, 0, 0)),
            "test_steps": np.array(list(self.tests), dtype=np.int64),
            "tests": np.array(list(self.tests.values()), dtype=np.float64).reshape(-1, 2),
        }
        unfinished = folder / f"{FILE}.part"
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(unfinished, folder / FILE)

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
                losses = torch.full((int(arrays["steps"]),), torch.nan, dtype=torch.float64)
                step = len(arrays["losses"])
                losses[:step] = torch.from_numpy(arrays["losses"])
                return cls(
                    settings=json.loads(str(arrays["settings"])),
                    losses=losses,
                    step=step,
                    probe_logits=dict(zip(arrays["probe_steps"].tolist(), torch.from_numpy(arrays["probe_logits"]))),
                    tests=dict(zip(arrays["test_steps"].tolist(), map(tuple, arrays["tests"].tolist()))),
                    folder=folder.resolve(),
                    name=folder.resolve().name,
                )
        except FileNotFoundError as error:
            raise BadInput(f"{folder} has no {FILE}: expected the folder of a run, or of a sweep") from error
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadInput(f"{file} cannot be read ({error}): train the run again") from error


def is_probe_step(step: int, steps: int) -> bool:
    """Steps 0, 1, 2, 4, 8, ... and the last: gaps between runs grow exponentially, so they are looked at in octaves."""
    return step & (step - 1) == 0 or step == steps
