"""The traces of runs in their folders: files of arrays by name, in NumPy's format, which any program can read."""

import json
import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote
from zipfile import BadZipFile

import numpy as np
import torch

from xent.runs import checkpoint
from xent.runs.event_file import EVENTS
from xent.runs.files import write_whole
from xent.training.errors import BadInput
from xent.training.trace import Trace

VERSION = 4
FILE = "trace.npz"
SWEEP = "multirun.yaml"  # which Hydra leaves in the folder of a sweep


def save(trace: Trace, folder: Path) -> None:
    """Write `trace.npz` of a run that came to its end. Stopped if it cannot be written."""
    arrays = {
        "version": VERSION,
        "settings": json.dumps(trace.settings),
        "losses": trace.losses.cpu().double().numpy(),
        "probe_steps": np.array(list(trace.probe_logits), dtype=np.int64),
        "probe_logits": np.stack([logits.cpu().numpy() for logits in trace.probe_logits.values()]),
        "test_steps": np.array(list(trace.tests), dtype=np.int64),
        "tests": np.array(list(trace.tests.values()), dtype=np.float64),
        "events": trace.events,
    }
    content = BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_whole(folder / FILE, content.getbuffer())


def load(folder: Path) -> Trace:
    """A run's trace. BadInput if there is none, or it cannot be read, or is of another version or another run."""
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as arrays:
            version = int(arrays["version"])
            if version != VERSION:
                raise BadInput(f"{file} is of version {version}, this xent reads {VERSION}: train the run again")
            trace = Trace(
                settings=json.loads(str(arrays["settings"])),
                losses=torch.from_numpy(arrays["losses"]),
                step=len(arrays["losses"]),
                probe_logits=dict(zip(arrays["probe_steps"].tolist(), torch.from_numpy(arrays["probe_logits"]))),
                tests=dict(zip(arrays["test_steps"].tolist(), map(tuple, arrays["tests"].tolist()))),
                events=str(arrays["events"]),
                folder=folder.resolve(),
                name=folder.resolve().name,
            )
    except FileNotFoundError as error:
        raise BadInput(f"{folder} has no {FILE}: expected the folder of a run, or of a sweep") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadInput(f"{file} cannot be read ({error}): train the run again") from error
    others = [file.name for file in folder.glob(f"{EVENTS}*")]
    if others and trace.events not in others:
        raise BadInput(f"{file} is of another run than {others[0]} beside it: train the run again")
    return trace


def load_runs(folders: Iterable[Path]) -> list[Trace]:
    """The traces of run folders, and of all runs directly inside folders that are not runs themselves.

    BadInput if a folder holds no trace, or one that cannot be read, or a run that is not finished.
    """
    traces = []
    for folder in folders:
        inside = sorted({file.parent for name in (FILE, checkpoint.FILE) for file in folder.glob(f"*/{name}")})
        for run in [folder] if (folder / FILE).exists() else inside or [folder]:
            if (run / checkpoint.FILE).exists() and not (run / FILE).exists():
                raise BadInput(f"{run} is not finished: go on with it, {checkpoint.how_to_resume(run)}")
            traces.append(load(run))
    for trace in traces:
        trace.name = _what_differs(trace, traces)
    return traces


def common_parent(traces: list[Trace]) -> Path:
    """The innermost folder that holds all these runs: of a sweep, its own."""
    return Path(os.path.commonpath([trace.folder.parent for trace in traces]))


def _what_differs(trace: Trace, traces: list[Trace]) -> str:
    """A run's folder, without the overrides that all runs share: `loss=scratch`, not `loss=scratch,model=mlp`."""
    parts = [unquote(str(each.folder.relative_to(common_parent(traces)))).split(",") for each in (trace, *traces)]
    shared = set.intersection(*map(set, parts))
    return ",".join(part for part in parts[0] if part not in shared) or trace.folder.name
