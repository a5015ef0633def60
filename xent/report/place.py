"""Where a difference begins, in words: the step, the tensor, and what that tells."""

from xent.recording.capture import BUFFER, GRADIENT, GRADIENT_AT, INPUT, LOSS, OUTPUT, UPDATE, WEIGHT
from xent.verdict.where import Where, kind_of, path_of

BEFORE_THE_STEP = "it differs before the step: look at its first values, and at what writes to it between steps"
MEANINGS = {
    WEIGHT: BEFORE_THE_STEP,
    BUFFER: BEFORE_THE_STEP,
    LOSS: "the outputs of all modules are the same: look at the loss",
    GRADIENT_AT: "outputs are the same: look at the backward pass that leads to it",
    GRADIENT: "gradients at outputs are the same: look at the backward pass of its module, at clipping and scaling",
    UPDATE: "its gradient is the same: look at the optimizer and its settings",
}
SHOWN = 3  # of the tensors furthest above their floors


def begins_at(where: Where) -> str | None:
    """The step and the place, if there is one that rounding does not explain."""
    return f"step {where.step}, {_place(where)}" if where.tensor and where.is_float64 else None


def place_lines(where: Where) -> list[str]:
    """The place in a few lines: the step and the tensor, what is the same before it, what was not compared."""
    steps, place = where.steps, begins_at(where)
    captured = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    if place and where.tensor:
        lines = [f"{place}: {where.decades[where.tensor]:.1f} decades above rounding", _before(where)]
        lines += filter(None, [_meaning(where)])
    elif where.tensor:
        furthest = sorted(where.decades, key=lambda name: -where.decades[name])[:SHOWN]
        listed = ", ".join(f"{name} ({where.decades[name]:.1f})" for name in furthest)
        lines = [f"step {where.step}, decades above rounding: {listed}"]
        lines += ["in this precision a correct change may be that far above at one tensor: record it in float64"]
    else:
        lines = [f"no tensor is above rounding, of {len(where.decades)} captured in {captured}"]
    for what, names in {
        "not seen inside, since it is compiled or not called:": where.unseen,
        "not compared, for want of a counterpart:": where.left_out,
    }.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines += [f"{what} {names[0]}{others}"] if names else []
    return lines


def _place(where: Where) -> str:
    """The first tensor above its floor; or the code of a module between two modules inside it."""
    name = where.tensor or ""
    if kind_of(name) in (INPUT, OUTPUT):
        running: dict[str, str] = {}  # the modules that were called and have not returned, each with what returned last
        for other in where.same:
            if kind_of(other) == INPUT:
                running.setdefault(_call(other), "")
            elif kind_of(other) == OUTPUT:
                running.pop(_call(other), None)
                running |= {outer: _call(other) for outer in running}
        if kind_of(name) == INPUT and _call(name) not in running and running:
            caller, last = running.popitem()
            after = f"between {_inside(last, caller)}, which is the same, and" if last else "before"
            return f"in {caller}, {after} {_inside(_call(name), caller)}"
        last = running.get(_call(name), "")
        if kind_of(name) == OUTPUT and last:
            return f"in {_call(name)}, after {_inside(last, _call(name))}, which is the same"
    return f"{name} ({where.module})" if where.module not in ("", path_of(name)) else name


def _call(name: str) -> str:
    """The module of an input or output, by its path; and which call it is, if it was called before in the step."""
    number = name.partition(" #")[2]
    return f"{path_of(name)} #{number}" if number else path_of(name)


def _inside(call: str, outer: str) -> str:
    """A call of a module by its path inside another."""
    return call.removeprefix(f"{outer.partition(' #')[0]}.")


def _before(where: Where) -> str:
    count = len(where.same)
    if count == 0:
        return "it is the first tensor of the step"
    tensors = f"{count} tensors, last {where.same[-1]}" if count > 1 else where.same[-1]
    return f"everything before it in that step is the same: {tensors}"


def _meaning(where: Where) -> str:
    """What to look at."""
    name = where.tensor or ""
    if kind_of(name) == UPDATE and name.replace(UPDATE, GRADIENT) not in where.same:
        return "no gradient of it was seen: look at what writes to it"
    if kind_of(name) == INPUT and not any(kind_of(other) == INPUT for other in where.same):
        return "weights are the same: look at what the model is given"
    return MEANINGS.get(kind_of(name), "")
