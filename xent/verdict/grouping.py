"""Judgements by what their candidates share, each under a name that tells it from the others."""

from typing import Any, NamedTuple

from xent.recording.trace import Trace
from xent.verdict.judging import Judgement, has_own_loss_precision
from xent.verdict.matching import Pair, without


class Group(NamedTuple):
    """The candidates that share all settings but what is compared, and so the reference."""

    name: str  # of the reference runs among all: `torch, float64`
    reference: Trace  # the first of them
    judgements: dict[str, Judgement]  # by the candidate's name among all: `scratch, float64`
    short: list[str]  # the candidates' names among themselves: `scratch`

    @property
    def pairs(self) -> list[Pair]:
        return [pair for judgement in self.judgements.values() for pair in judgement.pairs]

    @property
    def references(self) -> list[Trace]:
        """Each reference run once."""
        return list({id(pair.reference): pair.reference for pair in self.pairs}.values())


def grouped(judgements: list[Judgement], by: str) -> list[Group]:
    """The groups, in the order of their first candidates; `by` is the setting that is compared."""
    names = _names([each.settings for each in judgements], by)
    groups: dict[str, dict[str, Judgement]] = {}
    for name, judgement in zip(names, judgements):
        shared = without(judgement.pairs[0].reference, by, "seed", "nudge")
        groups.setdefault(shared, {})[name] = judgement
    references = [next(iter(members.values())).pairs[0].reference for members in groups.values()]
    group_names = _names([each.settings for each in references], by)
    return [
        Group(name, reference, members, _names([each.settings for each in members.values()], by))
        for name, reference, members in zip(group_names, references, groups.values())
    ]


def _value(settings: dict[str, Any], by: str) -> str:
    """The value of what is compared; of a loss of one's own, the name of its class or function."""
    value = str(settings.get(by))
    if (by, value) == ("loss", "custom"):
        return str(settings["loss._target_"]).rpartition(".")[2]
    return value


def _names(settings: list[dict[str, Any]], by: str) -> list[str]:
    """Each by what is compared, and by what else differs among them: `scratch, float64`."""
    keys = [key for key in settings[0] if any(each.get(key) != settings[0].get(key) for each in settings)]
    others = [key for key in keys if key.split(".")[0] != by.split(".")[0]]
    others = [key for key in others if key.partition(".")[0] not in others or "." not in key]  # a choice says its own
    if not any(has_own_loss_precision(each) for each in settings):
        others = [key for key in others if key != "loss_precision"]  # it follows the precision
    names = [", ".join([_value(each, by), *(str(each.get(key)) for key in others)]) for each in settings]
    if len(set(names)) < len(names):
        own = [key for key in keys if key.startswith(f"{by}.")]
        names = [", ".join([_value(each, by), *(str(each.get(key)) for key in (*own, *others))]) for each in settings]
    return names if len(set(names)) == len(names) else [f"{name} #{i}" for i, name in enumerate(names, start=1)]
