"""Traces in, gaps out: how far apart matched runs are. `python -m xent.compare RUN...`"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from xent.errors import BadInput
from xent.trace import FILE, Trace

BY = "loss"  # the setting that is compared; all others must match
REFERENCE = "torch"
NO_EFFECT = ("log_every", "data.root")  # settings that a run does not depend on


@dataclass(frozen=True)
class Comparison:
    """A candidate run held against its reference run.

    Attributes:
        gap: the relative distance of the probe logits after so many steps, `||Z_a - Z_b|| / ||Z_b||`.
        largest_loss_difference: over all steps, between the two training losses.
        bitwise_identical: every training loss and every probe logit is equal, bit for bit.
    """

    candidate: Trace
    reference: Trace
    gap: dict[int, float]
    largest_loss_difference: float
    bitwise_identical: bool


def load_runs(folders: Iterable[Path]) -> list[Trace]:
    """The traces of run folders, and of all runs directly inside folders that are not runs themselves.

    Raises:
        BadInput: a folder holds no trace, or one that cannot be read, or that ends early.
    """
    traces = []
    for folder in folders:
        inside = sorted(file.parent for file in folder.glob(f"*/{FILE}"))
        traces += [Trace.load(run) for run in ([folder] if (folder / FILE).exists() else inside or [folder])]
    for trace in traces:
        trace.name = _what_differs(trace, traces)
        if trace.step < len(trace.losses):
            raise BadInput(f"{trace.name} was stopped at step {trace.step} of {len(trace.losses)}: train it again")
    return traces


def _what_differs(trace: Trace, traces: list[Trace]) -> str:
    """A run's folder, without the overrides that all runs share: `loss=scratch`, not `loss=scratch,model=mlp`."""
    parts = [str(each.folder.relative_to(common_parent(traces))).split(",") for each in (trace, *traces)]
    shared = set.intersection(*map(set, parts))
    return ",".join(part for part in parts[0] if part not in shared) or trace.folder.name


def common_parent(traces: list[Trace]) -> Path:
    """The innermost folder that holds all these runs: of a sweep, its own."""
    return Path(os.path.commonpath([trace.folder.parent for trace in traces]))


def compare(traces: list[Trace]) -> list[Comparison]:
    """Hold every run against the reference run that it shares all settings with but the loss.

    Of several matched runs with the reference loss, the first is the reference and the others are candidates.

    Raises:
        BadInput: there is nothing to compare, or a run has no matched reference.
    """
    references = [trace for trace in traces if trace.settings[BY] == REFERENCE]
    if not references or len(traces) == 1:
        found = ", ".join(trace.name for trace in traces)
        raise BadInput(f"nothing to compare among {found}: expected a run with {BY}={REFERENCE}, and others")
    comparisons = []
    for _, group in groupby(sorted(traces, key=_matched_settings), key=_matched_settings):
        matched = list(group)
        for trace in matched:
            reference = _reference(trace, [each for each in matched if each.settings[BY] == REFERENCE])
            if reference is None:
                raise BadInput(_why_not_matched(trace, references))
            if trace is not reference:
                comparisons.append(_compare(trace, reference))
    if not comparisons:
        raise BadInput(_why_not_matched(references[1], references[:1]))
    return comparisons


def _reference(trace: Trace, references: list[Trace]) -> Trace | None:
    """The first reference whose loss has the same arguments, or else the only one there is."""

    def arguments(of: Trace) -> dict[str, object]:
        return {k: v for k, v in of.settings.items() if k.startswith(f"{BY}.") and k != f"{BY}._target_"}

    same = [reference for reference in references if arguments(reference) == arguments(trace)]
    return same[0] if same else references[0] if len(references) == 1 else None


def _compare(candidate: Trace, reference: Trace) -> Comparison:
    same_losses = torch.equal(candidate.losses, reference.losses)
    same_logits = all(torch.equal(candidate.probe_logits[step], z) for step, z in reference.probe_logits.items())
    return Comparison(
        candidate=candidate,
        reference=reference,
        gap={step: _gap(candidate.probe_logits[step], z) for step, z in reference.probe_logits.items()},
        largest_loss_difference=(candidate.losses - reference.losses).abs().max().item(),
        bitwise_identical=same_losses and same_logits,
    )


def _gap(candidate: torch.Tensor, reference: torch.Tensor) -> float:
    """`||Z_a - Z_b|| / ||Z_b||`, in float64."""
    candidate, reference = candidate.double(), reference.double()
    return float(torch.linalg.vector_norm(candidate - reference) / torch.linalg.vector_norm(reference))


def _matched_settings(trace: Trace) -> str:
    """All that two runs must share to be compared, but for what their losses share."""
    kept = {key: value for key, value in trace.settings.items() if key.split(".")[0] != BY and key not in NO_EFFECT}
    return json.dumps(kept, sort_keys=True)


def _why_not_matched(trace: Trace, references: list[Trace]) -> str:
    """Names the settings in which a run differs from the reference run closest to it."""

    def differing(reference: Trace) -> list[str]:
        ours, theirs = (json.loads(_matched_settings(t)) for t in (trace, reference))
        keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        return [f"{key} ({ours.get(key)} against {theirs.get(key)})" for key in keys]

    closest = min(references, key=lambda reference: len(differing(reference)))
    return (
        f"{trace.name} and {closest.name} are not matched, they differ in {', '.join(differing(closest))}: "
        f"train runs that differ in {BY} alone"
    )


def main(arguments: list[str] | None = None) -> None:
    """The command: exit 0 if the runs were compared, 2 if they cannot be."""
    from xent.report import report  # here, since the command stands at the end of the data flow

    parser = argparse.ArgumentParser("python -m xent.compare", description="Compare runs with those of loss=torch.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run, or of a sweep")
    parser.add_argument("--output", type=Path, help="where to write the report; default: comparison/ beside the runs")
    given = parser.parse_args(arguments)
    try:
        traces = load_runs(given.runs)
        report(compare(traces), given.output or common_parent(traces) / "comparison")
    except (BadInput, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
