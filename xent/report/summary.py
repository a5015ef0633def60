"""A comparison as plain data, made once: verdict.json holds it, and all that is shown is read from it."""

from collections import Counter
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from xent.recording.trace import Trace
from xent.report.place import begins_at, place_lines
from xent.training.trials import in_words
from xent.verdict.judging import WRONG, Judgement, Verdict, has_own_loss_precision
from xent.verdict.matching import without
from xent.verdict.where import Place

Summary = dict[str, Any]  # of JSON values; null where a number is not finite

SCHEMA_VERSION = 3
MAX_POINTS = 1000  # per curve, as many as TensorBoard shows
LARGEST_ROUNDING = 10.0  # decades; float32 rounding in float64 makes nine
SHOWN = 3  # differing candidates that the answer names; the table has them all
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
WHY_UNKNOWN = {
    Verdict.NO_FLOOR: "there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed "
    "(or ask python -m xent.compare --exact whether runs are equal to the last bit, which needs no floor)",
    Verdict.NOTHING_LEARNED: "outputs hardly changed, which tells nothing, train longer or with another learning rate",
}


def summarise(judgements: list[Judgement], by: str = "loss", command: str = "") -> Summary:
    """Summarise the judgements of a comparison by the setting `by`, with the answer to its question.

    Args:
        by: the setting that is compared.
        command: what was typed, to repeat it.
    """
    names = _names([judgement.settings for judgement in judgements], by)
    groups: dict[str, dict[str, Judgement]] = {}  # by the settings that a reference and its candidates share
    for name, judgement in zip(names, judgements):
        shared = without(judgement.pairs[0].reference, by, "seed", "nudge")
        groups.setdefault(shared, {})[name] = judgement
    firsts = [next(iter(group.values())) for group in groups.values()]
    references_settings = [first.pairs[0].reference.settings for first in firsts]
    all_settings = [judgement.settings for judgement in judgements] + references_settings
    shared_by_all = {key: v for key, v in all_settings[0].items() if all(s.get(key) == v for s in all_settings)}

    def part(runs: list[Trace], figures: Summary) -> Summary:
        settings = {key: v for key, v in runs[0].settings.items() if key not in (*shared_by_all, "seed", "nudge")}
        tests = [run.tests.get(run.step, (nan, nan)) for run in runs]
        loss, accuracy = (sum(values) / len(runs) for values in zip(*tests))
        means = {"test loss": loss, "test accuracy": accuracy, "losses": _curve(runs[0].losses)}
        return figures | {"settings": settings, "runs": [run.name for run in runs]} | means

    references, candidates = {}, {}
    reference_names = _names(references_settings, by)
    for reference_name, first, group in zip(reference_names, firsts, groups.values()):
        runs = {id(pair.reference): pair.reference for judgement in group.values() for pair in judgement.pairs}
        outputs = first.outputs
        floor = {"floor": outputs.floor, "floor range": outputs.floor_range, "nudged runs above": outputs.noise_above}
        short_name = str(first.pairs[0].reference.settings[by])
        references[reference_name] = part(list(runs.values()), {"short name": short_name, **floor})
        short_names = _names([judgement.settings for judgement in group.values()], by)
        for short_name, (name, judgement) in zip(short_names, group.items()):
            named = {"reference": reference_name, "short name": short_name}
            candidates[name] = part([pair.candidate for pair in judgement.pairs], named | figures(judgement))
    summary = {
        "schema version": SCHEMA_VERSION,
        "remarks": _remarks(dict(zip(names, judgements)), by),
        "compared": by,
        "command": command,
        "settings": shared_by_all,
        "what was run": _what_was_run(judgements),
        "references": references,
        "candidates": candidates,
    }
    return {"answer": _answer(summary)} | _finite(summary)


def candidates_of(summary: Summary, reference: str) -> dict[str, Summary]:
    """The candidates of one reference, by their short names."""
    candidates = summary["candidates"].values()
    return {part["short name"]: part for part in candidates if part["reference"] == reference}


def figures(judgement: Judgement) -> Summary:
    """The numbers of a judgement, in the words of the report."""
    outputs, losses = judgement.outputs, judgement.losses
    decades, limit = judgement.excess
    identical = judgement.verdict is Verdict.IDENTICAL  # a gap of 0 has no logarithm
    differences = [(pair.candidate.losses - pair.reference.losses).abs().max() for pair in judgement.pairs]
    return {
        "verdict": judgement.verdict,
        "decades above floor": None if identical else decades,
        "limit": limit,
        "nudged runs reach": outputs.noise,
        "left floor at step": judgement.left_floor,
        "losses above floor": None if identical else losses.margin,
        "losses differ by": torch.stack(differences).max().item(),
        "gap": outputs.gap,
        "ended after steps": [sorted(steps) for steps in judgement.ends],
        "in trials": {
            name: {
                "loss": [outcome.value for outcome in both],
                "gradient norm": [outcome.gradient.item() for outcome in both],
                "in words": in_words(*both),
            }
            for name, both in judgement.trials.items()
        },
        "where": _where(judgement.place),
    }


def _where(place: Place | None) -> Summary | None:
    """Where a candidate leaves the floor: in words, and every tensor of that step with its decades above the floor."""
    if place is None:
        return None
    return {
        "begins at": begins_at(place),
        "in words": place_lines(place),
        "step": place.step,
        "first": place.tensor and str(place.tensor),
        "limit": place.limit,
        "tensors": [{"name": str(key), "kind": key.kind, "decades": above} for key, above in place.decades.items()],
    }


def exit_code(summary: Summary) -> int:
    """The exit code of a comparison.

    Returns:
        0 if every candidate is the same as its reference, if only within rounding; 1 if one learns differently or
        reports other values; 2 if there is no floor to judge by, or nothing was learned.
    """
    verdicts = {candidate["verdict"] for candidate in summary["candidates"].values()}
    is_wrong, is_unknown = verdicts & WRONG, verdicts & {*WHY_UNKNOWN}
    return 1 if is_wrong else 2 if is_unknown else 0


def _finite(value: Any) -> Any:
    """A nested value with its numbers rounded, and None for non-finite ones."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def _curve(losses: Tensor) -> dict[int, float]:
    """The losses by step, thinned to MAX_POINTS."""
    every = -(-len(losses) // MAX_POINTS)
    return dict(zip(range(every, len(losses) + 1, every), losses[every - 1 :: every].tolist()))


def _names(settings: list[dict[str, Any]], by: str) -> list[str]:
    """Name runs by the value that is compared, and by what else differs among them: `scratch, float64`."""
    keys = [key for key in settings[0] if any(other.get(key) != settings[0].get(key) for other in settings)]
    others = [key for key in keys if key.split(".")[0] != by.split(".")[0]]
    others = [key for key in others if key.partition(".")[0] not in others or "." not in key]  # a choice says its own
    if not any(map(has_own_loss_precision, settings)):
        others = [key for key in others if key != "loss_precision"]  # it follows the precision
    arguments = [key for key in keys if key.startswith(f"{by}.")]
    values = _values(settings, by)
    for told_by in (others, [*arguments, *others]):
        names = [", ".join([v, *(str(s.get(key)) for key in told_by)]) for v, s in zip(values, settings)]
        if len(set(names)) == len(names):
            return names
    return [f"{name} #{i}" for i, name in enumerate(names, start=1)]


def _values(settings: list[dict[str, Any]], by: str) -> list[str]:
    """The values of the setting that is compared.

    A custom loss has the name of its class or function, with its module where two would read alike.
    """
    values = [str(run.get(by)) for run in settings]
    if by != "loss":
        return values
    targets = [str(run["loss._target_"]) if value == "custom" else "" for value, run in zip(values, settings)]
    names = [target.rpartition(".")[2] or value for target, value in zip(targets, values)]
    meant = Counter(name for name, _ in {*zip(names, targets)})
    return [target if target and meant[name] > 1 else name for name, target in zip(names, targets)]


def _answer(summary: Summary) -> str:
    """Whether every candidate trains as its reference; if not, which does not, from which step on, by how much."""
    candidates, references = list(summary["candidates"].values()), summary["references"]
    reference = _listed(part["short name"] for part in references.values())
    what = "" if summary["compared"] == "loss" else f"{summary['compared']}="
    wrong = [
        what + _how(name, candidate, reference)
        for name, candidate in summary["candidates"].items()
        if candidate["verdict"] in WRONG
    ]
    if wrong:
        more = f"; and {_in_words(len(wrong) - SHOWN)} more" if len(wrong) > SHOWN else ""
        part = f", {_in_words(len(wrong))} of {_in_words(len(candidates))}" if len(candidates) > 1 else ""
        return f"No{part}: {'; '.join(wrong[:SHOWN])}{more}."
    unknown = [WHY_UNKNOWN[candidate["verdict"]] for candidate in candidates if candidate["verdict"] in WHY_UNKNOWN]
    if unknown:
        return f"Not known: {_listed(unknown)}."
    names = {candidate["short name"]: None for candidate in candidates}
    precisions = _listed(_precision(summary["settings"] | part["settings"]) for part in references.values())
    train, seeds = f"train{'s' if len(names) == 1 else ''}", len(summary["what was run"]["seeds"].split(", "))
    over = f"over {_in_words(seeds)} seed{'s' if seeds > 1 else ''}"
    return f"Yes: {what}{_listed(names)} {train} as {reference} does, in {precisions}, {over}."


def _how(name: str, candidate: Summary, reference: str) -> str:
    if candidate["verdict"] == Verdict.OTHER_IN_TRIALS:
        trial, numbers = next(iter(candidate["in trials"].items()))
        return f"{name} trains as {reference} does, but for {trial} {numbers['in words']}"
    if candidate["verdict"] == Verdict.OTHER_END:
        ends, expected = (_listed(map(str, steps)) for steps in candidate["ended after steps"])
        return f"{name} trains as {reference} does but ends after {ends} steps, not after {expected}"
    different = candidate["verdict"] == Verdict.DIFFERENT
    decades = candidate["decades above floor" if different else "losses above floor"]
    how = "differs" if different else f"trains as {reference} does but reports values that differ"
    where = candidate["where"] and candidate["where"]["begins at"]
    begins = f", first at {where}" if where else ""
    step = candidate["left floor at step"]
    return f"{name} {how} by {decades:.1f} decades above rounding, beyond the limit from step {step} on{begins}"


def _precision(settings: dict[str, Any]) -> str:
    of_losses = f" with losses in {settings['loss_precision']}" if has_own_loss_precision(settings) else ""
    return f"{settings.get('precision')}{of_losses}"


def _in_words(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _listed(names: Iterable[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def _remarks(judgements: dict[str, Judgement], by: str) -> list[str]:
    """What the tables do not say: how coarse the rounding is, and where a difference may come from."""
    remarks = []
    precisions = {judgement.settings.get("precision") for judgement in judgements.values()}
    for name, judgement in judgements.items():
        times = float(f"{10**judgement.outputs.early:.2g}") if judgement.verdict is Verdict.COARSER else 1
        if times >= 2:
            remarks.append(f"{name} rounds about {times:,.0f} times as coarsely as the reference")
        ends, expected = judgement.ends
        if judgement.verdict is not Verdict.OTHER_END and ends | expected != {judgement.pairs[0].reference.step}:
            those = f"after {_listed(map(str, sorted(expected)))}"
            remarks.append(f"{name} ended after {_listed(map(str, sorted(ends)))} steps, its reference {those}")
        pair = judgement.pairs[0]
        if untried := [trial for trial in pair.reference.trials if trial not in pair.candidate.trials]:
            remarks.append(f"{name} was not tried on {_listed(untried)}: it raises an error there")
        changes = {str(run.settings.get(by)) for run in (pair.candidate, pair.reference)}
        if judgement.verdict is Verdict.IDENTICAL and len(changes) == 2:
            remarks.append(f"{name} is bitwise identical to its reference: did the change take effect?")
        if judgement.casts:
            seen_through = "which was seen through: it computed in float64 all the way"
            remarks.append(f"{name} casts to {_listed(judgement.casts)}, {seen_through}")
        is_finite = pair.candidate.losses.isfinite()
        if not is_finite.all():
            step = int(is_finite.int().argmin())
            remarks.append(f"the loss of {name} is {pair.candidate.losses[step].item()} at step {step + 1}")
        if judgement.verdict is not Verdict.DIFFERENT or has_own_loss_precision(judgement.settings):
            continue
        if judgement.first_mismatch:
            remarks.append(f"{name} got {judgement.first_mismatch} than its reference: draw it from the seed")
        if is_finite.all() and judgement.outputs.margin < LARGEST_ROUNDING and precisions in ({"float32"}, {"float64"}):
            tells = "train in float32 and in float64 to tell, in train.py by precision=float32,float64"
            remarks.append(f"{name}: a mistake, or coarse rounding? {tells}")
    return remarks


def _what_was_run(judgements: list[Judgement]) -> dict[str, str]:
    """The date, the version of xent, the number of runs, their steps, seeds and nudges."""
    pairs = [pair for judgement in judgements for pair in judgement.pairs]
    runs = {id(run): run for pair in pairs for run in (pair.candidate, pair.reference, pair.unnudged, *pair.nudged)}
    seeds, nudges = (sorted({run.settings[key] for run in runs.values()}) for key in ("seed", "nudge"))
    steps = sorted({run.step for run in runs.values()})
    counts = {"runs": [len(runs)], "steps": steps, "seeds": seeds, "nudges": nudges}
    numbers = {key: ", ".join(map(str, values)) for key, values in counts.items()}
    return {"date": date.today().isoformat(), "xent": version("xent"), **numbers}
