"""The traces of runs in folders: which there are, and how they are told apart."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.recording.trace_file import FILE, load
from xent.runs import checkpoint

SWEEP = "multirun.yaml"  # which Hydra leaves in the folder of a sweep


def load_runs(folders: Iterable[Path]) -> list[Trace]:
    """The traces of run folders, of all runs directly inside other folders, and of all anywhere inside a sweep's.

    BadInput if a folder holds no trace, or one that cannot be read, or a run that is not finished.
    """
    traces = []
    for folder in folders:
        if (folder / "verdict.json").exists():  # a comparison, which `runs/*` names too
            continue
        depth = "**" if (folder / SWEEP).exists() else "*"
        inside = sorted({file.parent for name in (FILE, checkpoint.FILE) for file in folder.glob(f"{depth}/{name}")})
        for run in [folder] if (folder / FILE).exists() else inside or [folder]:
            if (run / checkpoint.FILE).exists() and not (run / FILE).exists():
                raise BadInput(
                    f"{run} is not finished: go on with it, {checkpoint.how_to_resume(os.path.relpath(run))}"
                )
            traces.append(load(run))
    if traces:
        _name_by_what_differs(traces)
    return traces


def common_parent(traces: list[Trace]) -> Path:
    """The innermost folder that holds all these runs: of a sweep, its own."""
    return Path(os.path.commonpath([trace.folder.parent for trace in traces]))


def _name_by_what_differs(traces: list[Trace]) -> None:
    """By their folders, without the overrides that all runs share: `loss=scratch`, not `loss=scratch,model=mlp`."""
    parent = common_parent(traces)
    parts = [unquote(str(trace.folder.relative_to(parent))).split(",") for trace in traces]
    shared = set(parts[0]).intersection(*parts)
    for trace, own in zip(traces, parts):
        trace.name = ",".join(part for part in own if part not in shared) or trace.folder.name
