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


def run(loss: str, shift: float = 0.0, steps: int = 4, loss_shift: float | None = None, **settings: Any) -> Trace:
    """A run after whose step 0 logits are `shift`, relatively, and losses `loss_shift` or `shift` from other runs'."""
    own = {"loss": loss, "loss._target_": f"their.{loss}", "precision": "float64", "seed": 0, "nudge": 0}
    logits = torch.ones((4, 3), dtype=getattr(torch, settings.get("precision", "float64")))
    probe_steps = [step for step in range(steps + 1) if is_probe_step(step, steps)]
    return Trace(
        settings=own | {"device": "cpu"} | settings,
        losses=(1 + (shift if loss_shift is None else loss_shift)) * torch.linspace(2, 1, steps, dtype=torch.float64),
        step=steps,
        probes={step: (3.0 + step) * logits * (1 + shift * (step > 0)) for step in probe_steps},
        tests={steps: (0.5, 0.75)},
        name=",".join([loss, *(f"{key}={value}" for key, value in settings.items())]),
    )


def nudged(*shifts: float, **settings: Any) -> list[Trace]:
    """A reference run and, for each shift, a nudged one that far from it."""
    return [run("torch", shift=shift, nudge=n, **settings) for n, shift in enumerate((0.0, *shifts))]


def judged(comparison: Path) -> dict[str, dict[str, Any]]:
    """The figures of every candidate of a comparison, by its name."""
    return json.loads((comparison / "verdict.json").read_text())["candidates"]


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
