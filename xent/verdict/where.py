"""Where a difference begins: the first tensor of the first step that left its own floor."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from xent.recording.capture import BUFFER, GRADIENT, GRADIENT_AT, INPUT, LOSS, OUTPUT, UPDATE, WEIGHT, Captured
from xent.recording.settings import precision_of
from xent.recording.trace import Trace
from xent.verdict.matching import Pair, without

KINDS = (WEIGHT, BUFFER, INPUT, OUTPUT, LOSS, GRADIENT_AT, GRADIENT, UPDATE)  # with one of them a name begins
TENSOR_LIMIT = 2.0  # decades above the floor that rounding explains at one tensor, over one seed; see docs/where.md

Renames = Mapping[str, str]


@dataclass(frozen=True)
class Where:
    """Where a candidate leaves the floor, by the tensors that its runs and their references captured.

    Attributes:
        step: the first captured step in which a tensor left its floor; if none did, the last captured step.
        decades: of every tensor of this step, in order: how far it is above its own floor, a mean over the seeds.
        limit: how many decades rounding explains.
        tensor: the name of the first tensor above the limit; None if there is none.
        module: the class of the module that the tensor belongs to, or empty.
        unseen: modules with weights whose outputs the candidate did not capture: compiled ones, or not called as such.
        left_out: tensors of this step that do not stand beside each other: of other names, shapes or numbers of calls.
        steps: all captured steps.
        is_float64: whether the runs compute in float64. In float32, single tensors are also far above by rounding.
    """

    step: int
    decades: dict[str, float]
    limit: float
    tensor: str | None
    module: str
    unseen: list[str]
    left_out: list[str]
    steps: list[int]
    is_float64: bool

    @property
    def same(self) -> list[str]:
        """The tensors before the first one above the limit."""
        names = list(self.decades)
        return names[: names.index(self.tensor)] if self.tensor else names


def where(pairs: list[Pair]) -> Where | None:
    """Find where the candidate of these pairs left the floor; None if it, or a nudged reference, captured no step.

    Each tensor has its own floor: the distance of the nudged references from the unnudged one. That of an update is at
    least the rounding of the weight, and a tensor that is 0 but for rounding counts as 0. A difference that comes to
    nothing is no place: a mask in another form whose module has the same outputs, a scaled loss whose gradients are
    scaled back.

    Args:
        pairs: the candidate's runs with their references.
    """
    traces = [trace for pair in pairs for trace in (pair.candidate, pair.reference, pair.unnudged, *pair.nudged)]
    steps = sorted(set.intersection(*(set(trace.captures) for trace in traces)))
    if not steps or not all(pair.nudged for pair in pairs):
        return None
    first, limit = pairs[0].reference, TENSOR_LIMIT / sqrt(len({without(pair.unnudged, "nudge") for pair in pairs}))
    dtype = precision_of(first.settings) or first.first_outputs.dtype
    for step in steps:
        by_pair = [_decades(pair, step, torch.finfo(dtype).eps) for pair in pairs]
        in_all = [name for name in by_pair[0] if all(name in others for others in by_pair)]
        decades = {name: float(np.mean([of_pair[name] for of_pair in by_pair])) for name in in_all}
        names = set(first.captures[step]) | set(pairs[0].candidate.captures[step])
        above = [name for name in decades if decades[name] > limit and not _is_without_effect(name, decades, limit)]
        if above or step == steps[-1]:
            tensor = above[0] if above else None
            module = first.captures[step][tensor].module if tensor else ""
            left_out = sorted(names - set(decades))
            unseen = _unseen(pairs[0].candidate.captures[step])
            return Where(step, decades, limit, tensor, module, unseen, left_out, steps, dtype == torch.float64)
    raise AssertionError("the last step returns")


def kind_of(name: str) -> str:
    """What a tensor is: see the words in xent.recording.capture."""
    return next(kind for kind in KINDS if name.startswith(kind))


def rename_captures(trace: Trace, rename: Renames) -> None:
    """Give what a trace captured the names of another model: replace a module's path, or whole parts of it."""
    for old, new in rename.items():
        parts = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
        for step, tensors in trace.captures.items():
            trace.captures[step] = {parts.sub(new, name): captured for name, captured in tensors.items()}


def _decades(pair: Pair, step: int, epsilon: float) -> dict[str, float]:
    """How far each tensor of a step is above its floor, of those that all runs have."""
    reference, candidate = pair.reference.captures[step], pair.candidate.captures[step]
    plain, nudged = pair.unnudged.captures[step], [trace.captures[step] for trace in pair.nudged]
    everywhere = [candidate, plain, *nudged]
    calls = [Counter(name.partition(" #")[0] for name in run) for run in (reference, candidate)]
    norms = {name: float(captured.sketch.norm()) for name, captured in reference.items()}
    largest = {kind: max((norms[name] for name in norms if kind_of(name) == kind), default=0.0) for kind in KINDS}
    decades = {}
    for name, ours in reference.items():
        once = name.partition(" #")[0]
        is_everywhere = all(name in run and run[name].shape == ours.shape for run in everywhere)
        if not is_everywhere or calls[0][once] != calls[1][once]:
            continue
        norm = max(norms[name], float(candidate[name].sketch.norm()))
        if norm <= 10 * epsilon * largest[kind_of(name)]:  # 0 but for rounding
            decades[name] = 0.0
            continue
        lowest = epsilon / 10 * norm
        if name.startswith(UPDATE) and (weight := reference.get(once.replace(UPDATE, WEIGHT))):
            lowest = max(lowest, epsilon * float(weight.sketch.norm()))
        gaps = [_distance(run[name], plain[name]) for run in nudged]
        floor = np.exp(np.mean(np.log([max(gap, lowest) for gap in gaps])))
        gap = max(_distance(candidate[name], ours), lowest)
        decades[name] = float(np.log10(gap / floor))
    return decades


def _distance(one: Captured, other: Captured) -> float:
    return float(torch.linalg.vector_norm(one.sketch - other.sketch))


def _unseen(names: Iterable[str]) -> list[str]:
    """The modules with weights that have no outputs, unless none has any, as with several processes."""
    outputs = {path_of(name) for name in names if kind_of(name) == OUTPUT}
    owners = {path_of(name).rpartition(".")[0] for name in names if kind_of(name) == WEIGHT}
    return sorted(owners - outputs - {""}) if outputs else []


def _is_without_effect(name: str, decades: dict[str, float], limit: float) -> bool:
    """Whether it is an input of a module whose outputs are the same, or a gradient at one and those of weights are."""
    if name.startswith(INPUT):
        outputs = [other for other in decades if kind_of(other) == OUTPUT and path_of(other) == path_of(name)]
        after = [decades[other] for other in outputs if other.partition(" #")[2] == name.partition(" #")[2]]
    else:
        gradients = [other for other in decades if kind_of(other) == GRADIENT and kind_of(name) == GRADIENT_AT]
        after = [decades[other] for other in gradients]
    return bool(after) and max(after) <= limit


def path_of(name: str) -> str:
    """The path of the module in the name of its input, of its output, or of the gradient at that."""
    return re.sub(r"(\[\d+\])?( \(\w+\))?( #\d+)?$", "", name.removeprefix(f"{kind_of(name)} "))
