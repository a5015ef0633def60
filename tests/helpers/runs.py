"""Runs made up for the tests of what is done with runs, and how two that were trained differ."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.util import tensor_util

from xent.recording.trace import Trace, is_probe_step, load
from xent.training import checkpoint


def run(
    loss: str,
    shift: float = 0.0,
    steps: int = 4,
    precision: str = "float64",
    loss_shift: float | None = None,
    **settings: Any,
) -> Trace:
    """A run whose probe logits are `shift` from those of other runs, relatively, so after step 0.

    Its losses are `loss_shift` from theirs, by default as far as its logits.
    """
    dtype = getattr(torch, precision)
    of_loss = {"loss": loss, "loss._target_": f"their.{loss}"}
    factor = 1 + (shift if loss_shift is None else loss_shift)
    probe_steps = [step for step in range(steps + 1) if is_probe_step(step, steps)]
    probes = {step: torch.full((4, 3), 3.0 + step, dtype=dtype) * (1 + shift * (step > 0)) for step in probe_steps}
    return Trace(
        settings=of_loss | {"seed": 0, "nudge": 0, "precision": precision, "device": "cpu"} | settings,
        losses=factor * torch.linspace(2.0, 1.0, steps, dtype=torch.float64),
        step=steps,
        probes=probes,
        tests={steps: (0.5, 0.75)},
        name=",".join([loss, *(f"{key}={value}" for key, value in settings.items())]),
    )


def nudged(*shifts: float, **settings: Any) -> list[Trace]:
    """A reference run and, for each shift, a nudged one that far from it."""
    return [run("torch", shift=shift, nudge=n, **settings) for n, shift in enumerate((0.0, *shifts))]


def judged(comparison: Path) -> dict[str, dict[str, Any]]:
    """The figures of every candidate of a comparison, by its name."""
    candidates: dict[str, dict[str, Any]] = json.loads((comparison / "verdict.json").read_text())["candidates"]
    return candidates


def scalars(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Every scalar that a run wrote for TensorBoard, in its order, without those that a restart superseded."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    for file in sorted(folder.glob("events.out.*"), key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)]):
        for event in EventFileLoader(str(file)).Load():
            if event.session_log.status == SessionLog.START:
                found = {tag: [each for each in points if each[0] < event.step] for tag, points in found.items()}
            for value in event.summary.value:
                if not value.metadata.plugin_data.plugin_name or value.metadata.plugin_data.plugin_name == "scalars":
                    point = event.step, tensor_util.make_ndarray(value.tensor).tobytes()
                    found.setdefault(value.tag, []).append(point)
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs: everything they left, but for the times of events."""
    names = "settings step losses probes tests fingerprints model loss optimizer random scalars"
    left = [vars(load(folder)) | checkpoint.load(folder) | {"scalars": scalars(folder)} for folder in (one, other)]
    return [name for name in names.split() if _bits(left[0][name]) != _bits(left[1][name])]


def _bits(value: Any) -> Any:
    """A nested value with the bytes of its tensors, so that NaN equals itself and 0 differs from -0."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _bits(inner) for key, inner in value.items()}
    return [_bits(inner) for inner in value] if isinstance(value, list | tuple) else value
