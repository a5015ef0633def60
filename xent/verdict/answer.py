"""The answer to the question that a comparison asks, in a sentence."""

from collections.abc import Iterable

from xent.recording.trace import Trace
from xent.verdict.grouping import Group
from xent.verdict.judging import Judgement, Verdict, has_own_loss_precision

NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SHOWN = 3  # of those that differ; the table has them all
WHY_UNKNOWN = {
    Verdict.NO_FLOOR: "there are no nudged runs of the reference to judge by",
    Verdict.NOTHING_LEARNED: "no loss fell, and being alike in that tells nothing",
}


def answer(groups: list[Group], by: str) -> str:
    """Whether every candidate trains as its reference, and if not, which does not, from when on and by how much."""
    found = [(group, name, each) for group in groups for name, each in zip(group.short, group.judgements.values())]
    reference = _listed(dict.fromkeys(str(group.reference.settings[by]) for group in groups))
    what = "" if by == "loss" else f"{by}="
    wrong = [(g, name, each) for g, name, each in found if each.verdict in (Verdict.DIFFERENT, Verdict.OTHER_VALUES)]
    if wrong:
        said = [f"{what}{_how(name, each, reference, _in(group, groups))}" for group, name, each in wrong]
        more = f"; and {_number(len(said) - SHOWN)} more" if len(said) > SHOWN else ""
        of_several = f", {_number(len(wrong))} of {_number(len(found))}" if len(found) > 1 else ""
        return f"No{of_several}: {'; '.join(said[:SHOWN])}{more}."
    unknown = dict.fromkeys(WHY_UNKNOWN[each.verdict] for _, _, each in found if each.verdict in WHY_UNKNOWN)
    if unknown:
        return f"Not known: {' and '.join(unknown)}."
    names = list(dict.fromkeys(name for _, name, _ in found))
    train = "trains" if len(names) == 1 else "train"
    seeds = {pair.candidate.settings["seed"] for group in groups for pair in group.pairs}
    over = f", over {_number(len(seeds))} seed{'s' if len(seeds) > 1 else ''}"
    precisions = _listed(dict.fromkeys(_precision(group.reference) for group in groups))
    return f"Yes: {what}{_listed(names)} {train} as {reference} does, in {precisions}{over}."


def _how(name: str, judgement: Judgement, reference: str, where: str) -> str:
    drift = judgement.outputs if judgement.verdict is Verdict.DIFFERENT else judgement.losses
    from_step = f"from step {judgement.left_floor} on, by {drift.margin:.1f} decades above rounding{where}"
    if judgement.verdict is Verdict.DIFFERENT:
        return f"{name} differs {from_step}"
    return f"{name} trains as {reference} does but reports other values, {from_step}"


def _in(group: Group, groups: list[Group]) -> str:
    """What tells this group from the others."""
    return f", in {group.name.partition(', ')[2]}" if len(groups) > 1 else ""


def _precision(trace: Trace) -> str:
    own = f" with losses in {trace.settings['loss_precision']}" if has_own_loss_precision(trace.settings) else ""
    return f"{trace.settings.get('precision')}{own}"


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
