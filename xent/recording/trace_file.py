"""The trace of a run in its folder: a file of arrays by name, in NumPy's format, which any program can read or write.

docs/reference.md describes it.
"""

import json
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from xent.recording.errors import BadInput
from xent.recording.files import write_whole
from xent.recording.settings import precision_of
from xent.recording.trace import Trace

VERSION = 5
FILE = "trace.npz"
EVENTS = "events.out."  # how the names of TensorBoard's files begin


def save(trace: Trace, folder: Path) -> None:
    """Write `trace.npz` of a run that came to its end. Stopped if it cannot be written."""
    (dtype,) = {outputs.dtype for outputs in trace.probes.values()}
    arrays = {
        "version": VERSION,
        "settings": json.dumps(trace.settings),
        "losses": trace.losses.cpu().double().numpy(),
        "probe_steps": np.array(list(trace.probes), dtype=np.int64),
        "probes": np.stack([_numpy(outputs) for outputs in trace.probes.values()]),
        "probe_dtype": str(dtype).removeprefix("torch."),  # NumPy has no bfloat16
        "test_steps": np.array(list(trace.tests), dtype=np.int64),
        "tests": np.array(list(trace.tests.values()), dtype=np.float64).reshape(-1, 2),
        "fingerprints": json.dumps(trace.fingerprints),
        "events": trace.events,
    }
    content = BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_whole(folder / FILE, content)


def _numpy(outputs: torch.Tensor) -> np.ndarray:
    return (outputs.float() if outputs.dtype == torch.bfloat16 else outputs).numpy()


def _check(trace: Trace, probes: int) -> None:
    """ValueError if arrays, which any program may have written, are no trace."""
    settings, steps = trace.settings, [*trace.probes]
    missing = [key for key in ("seed", "nudge", "precision") if key not in settings]
    if missing or not all(isinstance(settings[key], int) for key in ("seed", "nudge")):
        raise ValueError(f"settings need integers as seed and nudge, and a precision, and have {settings}")
    if "loss_precision" in settings and not precision_of(settings, "loss_precision"):
        raise ValueError(f"loss_precision is {settings['loss_precision']}, expected a type of PyTorch's")
    if trace.losses.ndim != 1 or trace.step == 0 or not trace.losses.is_floating_point():
        raise ValueError(f"losses are {trace.losses.dtype} of shape {list(trace.losses.shape)}, expected one a step")
    if len(steps) != probes or steps != sorted(steps) or not steps or not 0 < steps[-1] <= trace.step:
        raise ValueError(f"{probes} probes after steps {steps} of {trace.step}, expected them in order, to the last")
    if not trace.first_outputs.is_floating_point():
        raise ValueError(f"probes are {trace.first_outputs.dtype}, expected floating point numbers")


def load(folder: Path) -> Trace:
    """A run's trace. BadInput if there is none, or it cannot be read, or is of another version or another run."""
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as arrays:
            version = int(arrays["version"])
            if version != VERSION:
                raise BadInput(f"{file} is of version {version}, this xent reads {VERSION}: train the run again")
            probes = torch.from_numpy(arrays["probes"]).to(getattr(torch, str(arrays["probe_dtype"])))
            trace = Trace(
                settings=json.loads(str(arrays["settings"])),
                losses=torch.from_numpy(arrays["losses"]),
                step=len(arrays["losses"]),
                probes=dict(zip(arrays["probe_steps"].tolist(), probes)),
                tests=dict(zip(arrays["test_steps"].tolist(), map(tuple, arrays["tests"].tolist()))),
                fingerprints={name: tuple(each) for name, each in json.loads(str(arrays["fingerprints"])).items()},
                events=str(arrays["events"]),
                folder=folder.resolve(),
                name=folder.resolve().name,
            )
        _check(trace, len(probes))
    except FileNotFoundError as error:
        raise BadInput(f"{folder} has no {FILE}: expected the folder of a run, or of a sweep") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise BadInput(f"{file} cannot be read ({error}): train the run again") from error
    others = [file.name for file in folder.glob(f"{EVENTS}*")]
    if others and trace.events not in others:
        raise BadInput(f"{file} is of another run than {others[0]} beside it: train the run again")
    return trace
