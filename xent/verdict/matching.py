"""Matched runs: they share every setting but one, and may be compared."""

import json
from dataclasses import dataclass, replace
from typing import Any

from xent.recording.errors import BadInput
from xent.recording.fingerprint import may_be_equal, other_sample
from xent.recording.trace import Trace

DEFAULT_REFERENCE = {"loss": "torch"}
COMES_WITH = {
    "device": ("machine",),
    "machine.processor": ("machine.instructions",),
    "precision": ("loss_precision",),
    "processes": ("machine.threads",),
}


@dataclass(frozen=True)
class Pair:
    """A candidate run and its reference run, which share every setting but what is compared.

    Attributes:
        unnudged: of the runs that differ from the reference in the nudge alone, the one with the smallest nudge, mostly
            0.
        nudged: the others, one for each nudge.
    """

    candidate: Trace
    reference: Trace
    unnudged: Trace
    nudged: list[Trace]


def pairs(traces: list[Trace], by: str = "loss", reference: str | None = None) -> list[Pair]:
    """Pair every run with the reference run that shares all its settings but `by`.

    Nudged reference runs are no candidates: they measure the floor. If several runs have every setting of the
    reference, the first is the reference and the others are candidates.

    Args:
        by: the setting that is compared, with all that belongs to it: a group's own settings, the device's machine.
        reference: the value of `by` in the reference runs. Defaults to `torch` for losses, or to the only value there
            is.

    Raises:
        BadInput: there is nothing to compare, or a run has no matched reference.
    """
    if by in ("seed", "nudge"):
        raise BadInput(f"--by {by}: it measures the noise that others are judged by; give another setting")
    value = _reference_value(traces, by, reference)
    references = [trace for trace in traces if str(trace.settings[by]) == value]
    matched = []
    for trace in traces:
        partner = _reference_of(trace, [other for other in references if without(other, by) == without(trace, by)], by)
        if partner is None:
            raise BadInput(_why_not_matched(trace, references, by))
        if trace is not partner:
            check_same_probes(trace, partner)
            unnudged, *nudged = _first_of_each_nudge(partner, references, by)
            matched.append(Pair(trace, partner, unnudged, nudged))
    if not matched:
        raise BadInput(f"nothing to compare: every run has {by}={value}, expected others beside it")
    return matched


def _reference_value(traces: list[Trace], by: str, wanted: str | None) -> str:
    """The value of `by` in the reference runs.

    Raises:
        BadInput: a run has no such setting, no run has that value, or the value must be given.
    """
    for trace in traces:
        if by not in trace.settings:
            raise BadInput(f"--by {by}: {trace.name} has no such setting, but {', '.join(trace.settings)}")
    values = list(dict.fromkeys(str(trace.settings[by]) for trace in traces))
    value = wanted or (values[0] if len(values) == 1 else DEFAULT_REFERENCE.get(by))
    if value is None:
        raise BadInput(f"--by {by}: give --reference, one of {', '.join(values)}")
    if value not in values:
        what = f"{', '.join(values)}, by --reference (of a sweep, hydra.callbacks.compare.reference=)"
        raise BadInput(f"no run has {by}={value}: train one, or give another reference, one of {what}")
    return value


def _first_of_each_nudge(reference: Trace, references: list[Trace], by: str) -> list[Trace]:
    """The runs that differ from a reference run in nothing but `nudge`: the first of each nudge, in order."""

    def key(trace: Trace) -> object:
        return without(trace, by, "nudge"), _arguments(trace, by)

    first = {trace.settings["nudge"]: trace for trace in reversed(references) if key(trace) == key(reference)}
    return [first[nudge] for nudge in sorted(first)]


def _reference_of(trace: Trace, references: list[Trace], by: str) -> Trace | None:
    """The first reference with the run's arguments of `by`; or the first of all, if the references agree on theirs."""
    same = [reference for reference in references if _arguments(reference, by) == _arguments(trace, by)]
    alike = all(_arguments(reference, by) == _arguments(references[0], by) for reference in references)
    return next(iter(same or (references if alike else [])), None)


def _arguments(trace: Trace, by: str) -> dict[str, Any]:
    """The settings inside the group that is compared, without those that say which choice it is."""
    names = (f"{by}._target_", f"{by}.mistake")
    return {key: value for key, value in trace.settings.items() if key.startswith(f"{by}.") and key not in names}


def without(trace: Trace, *names: str) -> str:
    """All settings of a run but these, as text.

    A setting goes with the settings inside it, if it is a group, and with those that follow it.
    """
    names += tuple(other for name in names for other in COMES_WITH.get(name, ()))
    prefixes = tuple(f"{name}." for name in names)
    kept = {key: value for key, value in trace.settings.items() if not f"{key}.".startswith(prefixes)}
    return json.dumps(kept, sort_keys=True)


def _why_not_matched(trace: Trace, references: list[Trace], by: str) -> str:
    """The message that names the settings in which a run differs from its closest reference run."""

    def differing(reference: Trace) -> list[str]:
        ours, theirs = (json.loads(without(t, by)) for t in (trace, reference))
        keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        return [f"{key} ({ours.get(key)} against {theirs.get(key)})" for key in keys]

    closest = min(references, key=lambda reference: len(differing(reference)))
    differences = ", ".join(differing(closest)) or f"the arguments of {by}"
    what = f"{trace.name} and {closest.name} are not matched, they differ in {differences}"
    return f"{what}: train runs that differ in {by} alone"


def check_same_probes(trace: Trace, reference: Trace) -> None:
    """Check that the outputs of two runs can be compared.

    Raises:
        BadInput: they are of different shapes, or never after the same step.
    """
    runs = trace, reference
    shapes = [list(run.first_outputs.shape) for run in runs]
    if shapes[0] != shapes[1]:
        both = [f"{run.name}: outputs of shape {shape}" for run, shape in zip(runs, shapes)]
        raise BadInput(f"{' and '.join(both)}; expected outputs of one shape")
    if not any(step > 0 for step in trace.probes.keys() & reference.probes.keys()):
        both = [f"{run.name}: outputs after {[*run.probes]} steps" for run in runs]
        raise BadInput(f"{' and '.join(both)}; expected some of the same steps")


def over_common_steps(pairs: list[Pair]) -> list[Pair]:
    """The pairs with each run up to the last probe step that all of their runs have."""
    runs = {id(run): run for pair in pairs for run in (pair.candidate, pair.reference, pair.unnudged, *pair.nudged)}
    common = set.intersection(*({*run.probes} for run in runs.values()))
    if all({*run.probes} == common for run in runs.values()) and len({run.step for run in runs.values()}) == 1:
        return pairs
    last = max(common)
    cut = {
        key: replace(
            run,
            losses=run.losses[:last],
            step=last,
            probes={step: run.probes[step] for step in sorted(common)},
            captures={step: tensors for step, tensors in run.captures.items() if step <= last},
        )
        for key, run in runs.items()
    }
    return [
        Pair(cut[id(p.candidate)], cut[id(p.reference)], cut[id(p.unnudged)], [cut[id(run)] for run in p.nudged])
        for p in pairs
    ]


def first_mismatch(trace: Trace, reference: Trace) -> str:
    """The first input that differs between two runs, first weights, a batch or a sample of it; empty if none does."""
    for step, marks in trace.samples.items():
        other = other_sample(marks, reference.samples[step]) if step in reference.samples else None
        if other is not None and len(marks) == len(reference.samples[step]):
            return f"another sample {other} in the batch of step {step}"
    for name, fingerprint in trace.fingerprints.items():
        if name in reference.fingerprints and not may_be_equal(fingerprint, reference.fingerprints[name]):
            return "other first weights" if name == "first weights" else f"another {name.replace(' ', ' at step ')}"
    return ""
