"""Runs made up for the tests of what is done with runs."""

from typing import Any

import torch

from xent.trace import Trace


def run(loss: str, shift: float = 0.0, steps: int = 4, precision: str = "float64", **settings: Any) -> Trace:
    """A run whose losses lie `shift` from those of other runs, and its probe logits, relatively, so after step 0."""
    dtype = getattr(torch, precision)
    probes = {step: torch.full((4, 3), 3.0, dtype=dtype) * (1 + shift * (step > 0)) for step in (0, 1, 2, 4)}
    of_loss = {"loss": loss, "loss._target_": f"their.{loss}"}
    return Trace(
        settings=of_loss | {"seed": 0, "nudge": 0, "precision": precision, "log_every": 10, "device": "cpu"} | settings,
        losses=torch.linspace(2.0, 1.0, steps, dtype=torch.float64) + shift,
        step=steps,
        probe_logits={step: logits for step, logits in probes.items() if step <= steps},
        tests={steps: (0.5, 0.75)},
        name=",".join([loss, *(f"{key}={value}" for key, value in settings.items())]),
    )


def nudged(*shifts: float, **settings: Any) -> list[Trace]:
    """A reference run and, for each shift, a nudged one that far from it."""
    return [run("torch", shift=shift, nudge=n, **settings) for n, shift in enumerate((0.0, *shifts))]
