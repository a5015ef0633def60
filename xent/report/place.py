"""Where a difference begins, in words: the step, the tensor, and what that tells."""

from xent.recording.capture import (
    BUFFER,
    GRADIENT,
    GRADIENT_AT,
    INPUT,
    LOSS,
    OUTPUT,
    UPDATE,
    WEIGHT,
    Call,
    Key,
)
from xent.verdict.where import Place

BEFORE_THE_STEP = "it differs before the step: look at its initial values, and at code that writes to it between steps"
SHOWN = 3  # of the tensors furthest above their floors


def begins_at(place: Place) -> str | None:
    """The step and the place, if there is one that rounding does not explain."""
    return f"step {place.step}, {_named(place, place.tensor)}" if place.tensor and place.is_float64 else None


def place_lines(place: Place) -> list[str]:
    """The place in a few lines: the step and the tensor, what is the same before it, what was not compared."""
    steps, begins = place.steps, begins_at(place)
    captured = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    if begins and place.tensor:
        lines = [f"{begins}: {place.decades[place.tensor]:.1f} decades above rounding", _before(place.same)]
        lines += filter(None, [_meaning(place.tensor, place.same)])
    elif place.tensor:
        furthest = sorted(place.decades, key=lambda key: -place.decades[key])[:SHOWN]
        listed = ", ".join(f"{key} ({place.decades[key]:.1f})" for key in furthest)
        lines = [f"step {place.step}, decades above rounding: {listed}"]
        lines += ["in this precision a correct change may be that far above at one tensor: record it in float64"]
    else:
        lines = [f"none of the {len(place.decades)} tensors of {captured} is above rounding"]
    for what, names in {
        "outputs not seen (compiled, checkpointed, or called as .forward):": place.unseen,
        "not compared, for want of a counterpart:": list(map(str, place.left_out)),
    }.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines += [f"{what} {names[0]}{others}"] if names else []
    return lines


def _named(place: Place, key: Key) -> str:
    """The first tensor above its floor; or the code of a module between two modules inside it."""
    captured = place.captured
    if key.kind in (INPUT, OUTPUT):
        outer = captured[key].caller if key.kind == INPUT else key.of
        inside = [k for k in place.same if k.kind == OUTPUT and captured[k].caller == outer]
        last = _call(inside[-1], outer) if inside and outer else ""
        if key.kind == INPUT and outer:
            after = f"between {last}, which is the same, and" if last else "before"
            return f"in {outer.path}, {after} {_call(key, outer)}"
        if last:
            return f"in {_call(key, None)}, after {last}, which is the same"
    module = captured[key].module
    return f"{key} ({module})" if module else str(key)


def _call(key: Key, outer: Call | None) -> str:
    """The module of an input or output, by its path inside another; and which call it is, if it was called before."""
    number = f" #{key.call}" if key.call > 1 else ""
    return key.path.removeprefix(f"{outer.path}." if outer else "") + number


def _before(same: list[Key]) -> str:
    if not same:
        return "it is the first tensor of the step"
    tensors = f"{len(same)} tensors, last {same[-1]}" if len(same) > 1 else str(same[-1])
    return f"everything before it in that step is the same: {tensors}"


def _meaning(key: Key, same: list[Key]) -> str:
    """What to look at."""
    kinds = {other.kind for other in same}
    if key.kind in (WEIGHT, BUFFER):
        return BEFORE_THE_STEP
    if key.kind == INPUT and INPUT not in kinds:
        return "weights are the same: look at what the model is given"
    if key.kind == LOSS:
        return f"{'outputs are the same: ' if OUTPUT in kinds else ''}look at the loss and its targets"
    if key.kind == GRADIENT_AT:
        is_first = GRADIENT_AT not in kinds and LOSS in kinds
        return (
            "the loss is the same, its gradient is not: look at the loss" if is_first else "look at the backward pass"
        )
    if key.kind == GRADIENT:
        before = "gradients at outputs are the same: " if GRADIENT_AT in kinds else ""
        return f"{before}look at the backward pass of its module, at clipping and scaling"
    if key.kind == UPDATE:
        is_of_optimizer = key._replace(kind=GRADIENT) in same
        of_optimizer = "its gradient is the same: look at the optimizer and its settings"
        return of_optimizer if is_of_optimizer else "look at what writes to it"
    return ""
