"""verdict.json: a comparison for programs, in the words of the report."""

from math import isfinite, nan
from typing import Any

from xent.recording.trace import Trace
from xent.verdict.grouping import Group
from xent.verdict.judging import Judgement, Verdict

SCHEMA_VERSION = 1
OF_A_RUN = ("seed", "nudge")

Settings = dict[str, Any]


def figures(groups: list[Group], by: str, answer: str) -> dict[str, Any]:
    """As JSON, which has no NaN and no infinity: null stands for them. What all runs share is said once."""
    candidates = [each.settings for group in groups for each in group.judgements.values()]
    everyone = [*candidates, *(group.reference.settings for group in groups)]
    shared = {key: value for key, value in everyone[0].items() if all(each.get(key) == value for each in everyone)}

    def own(settings: Settings) -> Settings:
        return {key: value for key, value in settings.items() if key not in (*shared, *OF_A_RUN)}

    return {
        "schema version": SCHEMA_VERSION,
        "answer": answer,
        "compared": by,
        "settings": shared,
        "references": {
            group.name: {"settings": own(group.reference.settings), "runs": [_run(each) for each in group.references]}
            for group in groups
        },
        "candidates": {
            name: {"reference": group.name, "settings": own(judgement.settings)} | _figures(judgement)
            for group in groups
            for name, judgement in group.judgements.items()
        },
    }


def _figures(judgement: Judgement) -> dict[str, Any]:
    outputs, losses = judgement.outputs, judgement.losses
    identical = judgement.verdict is Verdict.IDENTICAL
    return {
        "verdict": judgement.verdict,
        "decades above floor": None if identical else _number(outputs.margin),
        "limit": judgement.allowed(outputs),
        "nudged runs reach": _number(outputs.noise),
        "left floor at step": judgement.left_floor,
        "losses above floor": None if identical else _number(losses.margin),
        "losses differ by": _number(judgement.largest_loss_difference),
        "gap": {step: _number(value) for step, value in outputs.gap.items()},
        "floor": {step: _number(value) for step, value in outputs.floor.items()},
        "runs": [_run(pair.candidate) for pair in judgement.pairs],  # beside the reference's of that seed and nudge
    }


def _run(trace: Trace) -> dict[str, Any]:
    loss, accuracy = trace.tests.get(trace.step, (nan, nan))
    of_a_run = {key: trace.settings[key] for key in OF_A_RUN if key in trace.settings}
    return {"run": trace.name, **of_a_run, "test loss": _number(loss), "test accuracy": _number(accuracy)}


def _number(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and isfinite(value) else None
