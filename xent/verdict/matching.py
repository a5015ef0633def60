"""Which runs may be compared: those that share every setting but one."""

import json
from dataclasses import dataclass
from typing import Any

from xent.recording.errors import BadInput
from xent.recording.fingerprint import may_be_equal
from xent.recording.trace import NO_EFFECT, Trace

DEFAULT_REFERENCE = {"loss": "torch"}
COMES_WITH = {
    "device": ("machine",),
    "machine.processor": ("machine.instructions",),
    "precision": ("loss_precision",),
    "processes": ("machine.threads", "processes_before"),
    "accumulate": ("accumulate_before",),
}


@dataclass(frozen=True)
class Pair:
    """A candidate run and its reference run, which share every setting but what is compared."""

    candidate: Trace
    reference: Trace
    unnudged: Trace  # of the runs that differ from the reference in the nudge alone, that with the smallest, mostly 0
    nudged: list[Trace]  # the others, one of each nudge


def pairs(traces: list[Trace], by: str = "loss", reference: str | None = None) -> list[Pair]:
    """Every run beside the reference run that it shares all settings with but `by`.

    Nudged reference runs are no candidates, but the measure of the others. Of several runs that are equal to the
    reference in every setting, the first is it and the others are candidates.

    Args:
        by: the setting that is compared, with all that belongs to it: a group's own, the device's machine.
        reference: the value of `by` in the reference runs; by default `torch` for losses, or the only one there is.

    BadInput if there is nothing to compare, or a run has no matched reference.
    """
    if by in ("seed", "nudge"):
        raise BadInput(f"--by {by}: it measures the noise that others are judged by; give another setting")
    value = _reference_value(traces, by, reference)
    references = [trace for trace in traces if str(trace.settings[by]) == value]
    found = []
    for trace in traces:
        partner = _partner(trace, [each for each in references if without(each, by) == without(trace, by)], by)
        if partner is None:
            raise BadInput(_why_not_matched(trace, references, by))
        if trace is not partner:
            check_same_probes(trace, partner)
            unnudged, *nudged = _nudges(partner, references, by)
            found.append(Pair(trace, partner, unnudged, nudged))
    if not found:
        unlike = [each for each in references if without(each, by, "nudge") != without(references[0], by, "nudge")]
        if unlike:
            raise BadInput(_why_not_matched(unlike[0], [each for each in references if each is not unlike[0]], by))
        names = ", ".join(trace.name for trace in traces)
        raise BadInput(f"nothing to compare among {names}: expected a run with {by}={value}, and others")
    return found


def _reference_value(traces: list[Trace], by: str, wanted: str | None) -> str:
    for trace in traces:
        if by not in trace.settings:
            raise BadInput(f"--by {by}: {trace.name} has no such setting, but {', '.join(trace.settings)}")
    values = list(dict.fromkeys(str(trace.settings[by]) for trace in traces))
    value = wanted or (values[0] if len(values) == 1 else DEFAULT_REFERENCE.get(by))
    if value is None:
        raise BadInput(f"--by {by}: give --reference, one of {', '.join(values)}")
    if value not in values:
        raise BadInput(f"no run has {by}={value}: train one, or compare with --reference, one of {', '.join(values)}")
    return value


def _nudges(reference: Trace, references: list[Trace], by: str) -> list[Trace]:
    """The runs that differ from a reference run in nothing but `nudge`, the first of each."""
    same = [each for each in references if without(each, by, "nudge") == without(reference, by, "nudge")]
    first: dict[int, Trace] = {}
    for each in same:
        if _arguments(each, by) == _arguments(reference, by):
            first.setdefault(each.settings["nudge"], each)
    return [first[nudge] for nudge in sorted(first)]


def _partner(trace: Trace, references: list[Trace], by: str) -> Trace | None:
    """The first reference with the same arguments of what is compared, or else with the only ones there are."""
    same = [reference for reference in references if _arguments(reference, by) == _arguments(trace, by)]
    alike = references and all(_arguments(each, by) == _arguments(references[0], by) for each in references)
    return same[0] if same else references[0] if alike else None


def _arguments(trace: Trace, by: str) -> dict[str, Any]:
    own = (f"{by}._target_", f"{by}.mistake")
    return {key: value for key, value in trace.settings.items() if key.startswith(f"{by}.") and key not in own}


def without(trace: Trace, *names: str) -> str:
    """All settings that count but these, with what is in them if they are groups, and what comes with them."""
    names += tuple(other for name in names for other in COMES_WITH.get(name, ()))
    kept = {
        key: value
        for key, value in trace.settings.items()
        if key not in NO_EFFECT and not any(key == name or key.startswith(f"{name}.") for name in names)
    }
    return json.dumps(kept, sort_keys=True)


def _why_not_matched(trace: Trace, references: list[Trace], by: str) -> str:
    """Names the settings in which a run differs from the reference run closest to it."""

    def differing(reference: Trace) -> list[str]:
        ours, theirs = (json.loads(without(t, by)) for t in (trace, reference))
        keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        return [f"{key} ({ours.get(key)} against {theirs.get(key)})" for key in keys]

    closest = min(references, key=lambda reference: len(differing(reference)))
    differences = ", ".join(differing(closest)) or f"the arguments of {by}"
    return (
        f"{trace.name} and {closest.name} are not matched, they differ in {differences}: "
        f"train runs that differ in {by} alone"
    )


def check_same_probes(trace: Trace, reference: Trace) -> None:
    """BadInput if the outputs of two runs do not stand beside each other."""
    steps, shapes = zip(*((_probe_steps(each), list(each.first_outputs.shape)) for each in (trace, reference)))
    if steps[0] != steps[1] or shapes[0] != shapes[1]:
        named = zip((trace, reference), shapes)
        made = " and ".join(f"{each.name}: {each.step} steps, outputs of shape {shape}" for each, shape in named)
        raise BadInput(f"{made}; expected runs of as many steps, looked at after the same, and of one shape")


def _probe_steps(trace: Trace) -> list[int]:
    return [trace.step, *(step for step in trace.probes if step > 0)]


def first_mismatch(trace: Trace, reference: Trace) -> str:
    """The first of what two runs were given that is not the same, by its fingerprint; empty if there is none."""
    for name, fingerprint in trace.fingerprints.items():
        if name in reference.fingerprints and not may_be_equal(fingerprint, reference.fingerprints[name]):
            return "other first weights" if name == "first weights" else f"another {name.replace(' ', ' at step ')}"
    return ""
