"""Where a difference begins: the first tensor of the first step that left its own floor."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from xent.recording.capture import (
    BUFFER,
    GRADIENT,
    GRADIENT_AT,
    INPUT,
    KINDS,
    LOSS,
    OUTPUT,
    UPDATE,
    WEIGHT,
    Call,
    Captured,
    Key,
)
from xent.recording.errors import BadInput
from xent.recording.settings import precision_of
from xent.recording.trace import Trace
from xent.verdict.matching import Pair, without

TENSOR_LIMIT = 2.5  # decades that rounding explains at one tensor, over one seed; benchmarks.where has 2.0 at most

Renames = Mapping[str, str]
Decades = dict[Key, float]


@dataclass(frozen=True)
class Place:
    """Where a candidate leaves the floor, by the tensors that its runs and their references captured.

    Attributes:
        step: the first captured step in which a tensor left its floor; if none did, the last captured step.
        decades: of every tensor of this step, in order: how far it is above its own floor, a mean over the seeds.
        limit: how many decades rounding explains.
        tensor: the first above the limit whose difference has an effect; None if there is none.
        captured: the tensors of this step in the reference.
        unseen: modules with weights whose outputs the reference alone captured; if it captured none, all that the
            candidate did not.
        left_out: tensors of this step that do not stand beside each other: of other names, shapes or numbers of calls.
        steps: all captured steps.
        is_float64: whether the runs compute in float64. In float32, single tensors are also far above by rounding.
    """

    step: int
    decades: Decades
    limit: float
    tensor: Key | None
    captured: dict[Key, Captured]
    unseen: list[str]
    left_out: list[Key]
    steps: list[int]
    is_float64: bool

    @property
    def same(self) -> list[Key]:
        """The tensors before the one that is named, without those that differ to no effect."""
        keys = list(self.decades)
        before = keys[: keys.index(self.tensor)] if self.tensor else keys
        return [key for key in before if self.decades[key] <= self.limit]


def find_place(pairs: list[Pair]) -> Place | None:
    """Find where the candidate of these pairs left the floor; None if runs share no captured step, or lack nudges.

    Each tensor has its own floor: the distance of the nudged references from the unnudged one. That of an update is at
    least the rounding of the weight. A gradient or an update that is only rounding counts as the same.

    A difference without effect is no place. An input may be given in another form, as a mask, to a module whose
    outputs are the same. Gradients at outputs may be scaled, if the gradients of weights are scaled back.

    Args:
        pairs: the candidate's runs with their references.
    """
    traces = [trace for pair in pairs for trace in (pair.candidate, pair.reference, pair.unnudged, *pair.nudged)]
    steps = sorted(set.intersection(*(set(trace.captures) for trace in traces)))
    if not steps or not all(pair.nudged for pair in pairs):
        return None
    first, limit = pairs[0].reference, TENSOR_LIMIT / sqrt(len({without(pair.unnudged, "nudge") for pair in pairs}))
    dtype = precision_of(first.settings) or first.first_outputs.dtype
    loss_dtype = precision_of(first.settings, "loss_precision") or dtype
    for step in steps:
        by_pair = [_decades(pair, step, torch.finfo(dtype).eps, torch.finfo(loss_dtype).eps) for pair in pairs]
        in_all = [key for key in by_pair[0] if all(key in others for others in by_pair)]
        decades = {key: float(np.mean([of_pair[key] for of_pair in by_pair])) for key in in_all}
        tensor = _first_above(decades, limit, pairs[0].candidate.captures[step])
        if tensor or step == steps[-1]:
            break
    ours, theirs = pairs[0].candidate.captures[step], first.captures[step]
    left_out = [key for key in (ours | theirs) if key not in decades]
    is_float64 = dtype == torch.float64
    return Place(step, decades, limit, tensor, theirs, _unseen(ours, theirs), left_out, steps, is_float64)


def rename_captures(trace: Trace, rename: Renames) -> None:
    """Give what a trace captured the paths of another model: replace a module's path, or whole parts of it.

    Raises:
        BadInput: two tensors then have one name.
    """
    if not rename:
        return
    parts = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, rename)) + r")(?!\w)")
    for step, tensors in trace.captures.items():
        paths = {key: parts.sub(lambda match: rename[match[1]], key.path) for key in tensors}
        trace.captures[step] = {key._replace(path=paths[key]): captured for key, captured in tensors.items()}
        if len(trace.captures[step]) < len(tensors):
            raise BadInput(f"rename={dict(rename)} gives two tensors one name: map each module to another")


def _decades(pair: Pair, step: int, epsilon: float, epsilon_of_loss: float) -> Decades:
    """How far each tensor of a step is above its floor, of those that all runs have."""
    reference, candidate = pair.reference.captures[step], pair.candidate.captures[step]
    plain, nudged = pair.unnudged.captures[step], [trace.captures[step] for trace in pair.nudged]
    everywhere = [candidate, plain, *nudged]
    calls = [Counter(key._replace(call=1) for key in run) for run in (reference, candidate)]
    norms = {key: float(captured.sketch.norm()) for key, captured in reference.items()}
    largest = {kind: max((norms[key] for key in norms if key.kind == kind), default=0.0) for kind in KINDS}
    decades = {}
    for key, ours in reference.items():
        once = key._replace(call=1)
        is_everywhere = all(key in run and run[key].shape == ours.shape for run in everywhere)
        if not is_everywhere or calls[0][once] != calls[1][once]:
            continue
        norm = max(norms[key], float(candidate[key].sketch.norm()))
        if key.kind in (GRADIENT_AT, GRADIENT, UPDATE) and norm <= 10 * epsilon * largest[key.kind]:
            decades[key] = 0.0
            continue
        # A loss is one number, in which nudged runs may agree by chance.
        lowest = max((epsilon_of_loss if key.kind == LOSS else epsilon / 10) * norm, np.finfo(float).tiny)
        if key.kind == UPDATE:
            before = (norms.get(once._replace(kind=kind), 0.0) for kind in (WEIGHT, BUFFER))
            lowest = max(lowest, epsilon * max(before))
        gaps = [_distance(run[key], plain[key]) for run in nudged]
        floor = np.exp(np.mean(np.log([max(gap, lowest) for gap in gaps])))
        gap = max(_distance(candidate[key], ours), lowest)
        decades[key] = float(np.log10(gap / floor))
    return decades


def _distance(one: Captured, other: Captured) -> float:
    return float(torch.linalg.vector_norm(one.sketch - other.sketch))


def _first_above(decades: Decades, limit: float, captured: dict[Key, Captured]) -> Key | None:
    """The first tensor above the limit whose difference has an effect.

    Args:
        captured: the tensors of the candidate.
    """
    most_of_call: dict[Call, float] = {}  # of the outputs of each call
    for key in decades:
        if key.kind == OUTPUT:
            most_of_call[key.of] = max(decades[key], most_of_call.get(key.of, decades[key]))
    gradients = [decades[key] for key in decades if key.kind == GRADIENT]

    def has_effect(key: Key) -> bool:
        if key.kind == GRADIENT_AT:
            return not gradients or max(gradients) > limit
        if key.kind != INPUT:
            return True
        numbers = captured[key].sketch
        given = [k for k in decades if k.kind == INPUT and torch.equal(captured[k].sketch, numbers)]
        return all(most_of_call.get(k.of, limit + 1) > limit for k in given)

    return next((key for key in decades if decades[key] > limit and has_effect(key)), None)


def _unseen(ours: Iterable[Key], theirs: Iterable[Key]) -> list[str]:
    """The modules with weights whose outputs were not captured; not those that the reference has not seen either."""
    owners = {key.path.rpartition(".")[0] for key in ours if key.kind == WEIGHT}
    seen, expected = ({key.path for key in keys if key.kind == OUTPUT} & owners for keys in (ours, theirs))
    return sorted((expected or owners) - seen - {""})
