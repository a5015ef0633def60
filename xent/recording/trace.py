"""The trace of a training: what a run records and comparison reads. The file `trace.npz` holds it, in NumPy's format.

docs/reference.md describes the file, which any program can read or write.
"""

import json
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xent.recording.capture import Captures, as_rows, from_rows
from xent.recording.errors import BadInput
from xent.recording.files import write_whole
from xent.recording.fingerprint import Fingerprint
from xent.recording.settings import precision_of

VERSION = 9
FILE = "trace.npz"
LATE = 16  # from this step on, more outputs are recorded


@dataclass
class Trace:
    """What a run leaves for comparison.

    Attributes:
        settings: every setting that the run depends on, as JSON values by dotted name.
        losses: the training loss of every step, `[steps]`; that of step `i`, counted from 1, is at `i - 1`. While the
            run trains, they are on its device.
        step: the number of steps made. While the run trains, this is less than the number of losses.
        probes: the outputs of the probe, by the number of steps made; all of one shape, on the CPU.
        tests: loss and accuracy on data that is not trained on, by the number of steps made.
        fingerprints: of the first weights and of some batches, by name; matched runs have them in common.
        bits: a hash of the bits of all weights and buffers, by the number of steps made.
        samples: what tells each sample of the first batches from others, see `sample_marks`, by the step.
        captures: the tensors of some steps, by the step and by what they are, in order.
        casts: the types narrower than float64 that the program casts to, which `all_in_float64` ignored.
        trials: the loss on batches that training does not show it, and the norm of its gradient there, by name.
        folder: where the trace was loaded from.
        name: the name of the run among those it is compared with.
    """

    settings: dict[str, Any]
    losses: Tensor
    step: int = 0
    probes: dict[int, Tensor] = field(default_factory=dict)
    tests: dict[int, tuple[float, float]] = field(default_factory=dict)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    bits: dict[int, int] = field(default_factory=dict)
    samples: dict[int, Tensor] = field(default_factory=dict)
    captures: Captures = field(default_factory=dict)
    casts: set[str] = field(default_factory=set)
    trials: dict[str, tuple[float, float]] = field(default_factory=dict)
    folder: Path = Path()
    name: str = ""

    @property
    def first_outputs(self) -> Tensor:
        """The outputs of the first probe. All others have their shape and type."""
        return next(iter(self.probes.values()))


def is_probe_step(step: int, steps: int) -> bool:
    """Whether outputs are recorded after this step: 0, 1, 2, 4, 8, 16, 20, 24, 28, 32, 40, ... and the last.

    Gaps between runs grow exponentially, which powers of two show. The quarters between them are for late mistakes.
    """
    quarter = (1 << step.bit_length()) // 8
    return is_octave(step, steps) or (step >= LATE and step % quarter == 0)


def is_octave(step: int, steps: int) -> bool:
    """Whether a probe step is 0, a power of two, or the last."""
    return step & (step - 1) == 0 or step == steps


def learned(losses: Tensor) -> bool:
    """Whether the losses fell: from their first tenth to their last, by more than three standard errors.

    A tenth has at least 5 and at most 50 losses. Its noise is estimated from the differences of consecutive losses,
    which its own fall hardly affects. Losses that are NaN did not fall, nor did losses that jumped and came back. Fewer
    than 20 losses count as learned.

    Args:
        losses: of the steps that were made, `[steps]`.
    """
    if len(losses) < 20:
        return True
    count = min(max(5, len(losses) // 10), 50)
    first, last = losses[:count].double(), losses[-count:].double()
    variance = sum(part.diff().square().mean() / 2 for part in (first, last))
    return bool(first.mean() - last.mean() > 3 * (variance / count) ** 0.5)


def save(trace: Trace, folder: Path) -> None:
    """Write the trace of a finished run into its folder, as `trace.npz`.

    Raises:
        Stopped: the file cannot be written.
    """
    outputs = torch.stack(list(trace.probes.values()))
    rows = as_rows(trace.captures)
    arrays = {
        "version": VERSION,
        "settings": json.dumps(trace.settings),
        "losses": trace.losses.cpu().double().numpy(),
        "probe_steps": np.array(list(trace.probes), dtype=np.int64),
        "probes": (outputs.float() if outputs.dtype == torch.bfloat16 else outputs).numpy(),  # NumPy has no bfloat16
        "probe_dtype": str(outputs.dtype).removeprefix("torch."),
        "test_steps": np.array(list(trace.tests), dtype=np.int64),
        "tests": np.array(list(trace.tests.values()), dtype=np.float64).reshape(-1, 2),
        "fingerprints": json.dumps(trace.fingerprints),
        "bits": np.array(list(trace.bits.items()), dtype=np.int64).reshape(-1, 2),
        "casts": json.dumps(sorted(trace.casts)),
        "trial_names": json.dumps(list(trace.trials)),
        "trials": np.array(list(trace.trials.values()), dtype=np.float64).reshape(-1, 2),
        "captured": json.dumps([(*values, len(numbers)) for *values, numbers in rows]),
        "sketches": torch.cat([torch.zeros(0), *(numbers for *_, numbers in rows)]).double().numpy(),
        "sample_steps": np.array([step for step, marks in trace.samples.items() for _ in marks], dtype=np.int64),
        "samples": torch.cat([torch.zeros(0, 3, dtype=torch.float64), *trace.samples.values()]).numpy(),
    }
    content = BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_whole(folder / FILE, content)


def load(folder: Path) -> Trace:
    """Read the trace of a run from its folder.

    Raises:
        BadInput: there is no trace, it cannot be read, or it is of another version.
    """
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as arrays:
            version = int(arrays["version"])
            if version != VERSION:
                raise BadInput(f"{file} is of version {version}, this xent reads {VERSION}: train the run again")
            dtype = precision_of({"precision": arrays["probe_dtype"]})
            if dtype is None:
                raise ValueError(f"probe_dtype is {arrays['probe_dtype']}, expected a type of PyTorch's")
            probes = torch.from_numpy(arrays["probes"]).to(dtype)
            trace = Trace(json.loads(str(arrays["settings"])), torch.from_numpy(arrays["losses"]))
            trace.probes = dict(zip(arrays["probe_steps"].tolist(), probes))
            trace.tests = _pairs(arrays["test_steps"].tolist(), arrays["tests"])
            trace.bits = dict(arrays["bits"].tolist())
            texts = "fingerprints", "casts", "trial_names"
            fingerprints, casts, trial_names = (json.loads(str(arrays[name])) for name in texts)
            trace.trials = _pairs(trial_names, arrays["trials"])
            captured, sketches = json.loads(str(arrays["captured"])), torch.from_numpy(arrays["sketches"])
            samples, sample_steps = (torch.from_numpy(arrays[name]) for name in ("samples", "sample_steps"))
        if len(samples) != len(sample_steps):
            raise ValueError(f"{len(samples)} samples of {len(sample_steps)} steps")
        trace.samples = {step: samples[sample_steps == step] for step in sample_steps.unique().tolist()}
        parts = sketches.split([count for *_, count in captured])
        trace.captures = from_rows((*values, numbers) for (*values, _), numbers in zip(captured, parts))
        trace.fingerprints = {name: _fingerprint(sums) for name, sums in fingerprints.items()}
        trace.casts = {str(cast) for cast in casts}
        trace.step, trace.folder, trace.name = len(trace.losses), folder.resolve(), folder.resolve().name
        _check(trace, len(probes))
    except FileNotFoundError as error:
        raise BadInput(f"{folder} has no {FILE}: expected the folder of a run, or of a sweep") from error
    except BadInput:
        raise
    except Exception as error:  # a damaged file may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{file} cannot be read ({reason[:200]}): train the run again") from error
    return trace


def _pairs(keys: list[Any], pairs: NDArray[np.float64]) -> dict[Any, tuple[float, float]]:
    """Rows of two numbers by their keys.

    Raises:
        ValueError: there are more rows or keys, or other columns.
    """
    if pairs.shape != (len(keys), 2):
        raise ValueError(f"a table of shape {list(pairs.shape)} for {len(keys)} rows of two numbers")
    return {key: (float(one), float(other)) for key, (one, other) in zip(keys, pairs.tolist())}


def _fingerprint(sums: list[float]) -> Fingerprint:
    count, total, squares, cosines = map(float, sums)
    return count, total, squares, cosines


def _check(trace: Trace, probes: int) -> None:
    """Check that the arrays of a file are a trace: any program may have written them.

    Raises:
        ValueError: they are not; the message says why.
    """
    settings, steps = trace.settings, [*trace.probes]
    if "precision" not in settings or not all(isinstance(settings.get(key), int) for key in ("seed", "nudge")):
        raise ValueError(f"settings need integers as seed and nudge, and a precision, and have {settings}")
    if "loss_precision" in settings and not precision_of(settings, "loss_precision"):
        raise ValueError(f"loss_precision is {settings['loss_precision']}, expected a type of PyTorch's")
    if trace.losses.ndim != 1 or trace.step == 0 or not trace.losses.is_floating_point():
        raise ValueError(f"losses are {trace.losses.dtype} of shape {list(trace.losses.shape)}, expected one a step")
    if not all(marks.shape == (len(marks), 3) for marks in trace.samples.values()):
        raise ValueError("samples are not three numbers each")
    if len(steps) != probes or steps != sorted(steps) or not steps or not 0 < steps[-1] <= trace.step:
        raise ValueError(f"{probes} probes after steps {steps} of {trace.step}, expected them in order, to the last")
    if not trace.first_outputs.is_floating_point():
        raise ValueError(f"probes are {trace.first_outputs.dtype}, expected floating point numbers")
