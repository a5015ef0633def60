"""The first tensor that left its own floor, of captures that are made up."""

import re

import pytest
import torch
from torch import Tensor

from tests.helpers.runs import run
from xent.recording.capture import GRADIENT, GRADIENT_AT, INPUT, LOSS, OUTPUT, UPDATE, WEIGHT, Call, Captured, Key
from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.report.place import begins_at, place_lines
from xent.verdict.matching import Pair
from xent.verdict.where import Place, find_place, rename_captures

CALLER = {"a": Call("model", 1), "b": Call("model", 1)}
KEYS = [Key(WEIGHT, "a.w"), Key(INPUT, "model"), Key(INPUT, "a"), Key(OUTPUT, "a"), Key(INPUT, "b"), Key(OUTPUT, "b")]
KEYS += [Key(OUTPUT, "model"), Key(LOSS), Key(GRADIENT_AT, "b"), Key(GRADIENT_AT, "a"), Key(GRADIENT, "a.w")]
KEYS += [Key(UPDATE, "a.w")]
NAMES = list(map(str, KEYS))
NUMBERS = torch.linspace(1, 2, 8, dtype=torch.float64)


def capturing(off: dict[str, float] | float = 0.0, steps: tuple[int, ...] = (1,), **others: Tensor) -> Trace:
    """A run whose tensors are off by a factor each, or all by one; `others` replaces the numbers of some."""
    trace = run("torch")
    for step in steps:
        trace.captures[step] = {}
        for place, key in enumerate(KEYS):
            factor = off.get(str(key), 0.0) if isinstance(off, dict) else off
            numbers = others.get(str(key).replace(" ", "_").replace(".", "_"), NUMBERS + place) * (1 + factor)
            of = "Linear" if key.kind in (INPUT, OUTPUT, GRADIENT_AT) else ""
            trace.captures[step][key] = Captured(tuple(numbers.shape), of, CALLER.get(key.path), numbers)
    return trace


def found(candidate: Trace, reference: Trace | None = None, *nudged: Trace) -> Place:
    reference = reference or capturing()
    place = find_place([Pair(candidate, reference, reference, list(nudged) or [capturing(1e-15), capturing(-1e-15)])])
    assert place is not None
    return place


def first(place: Place) -> str:
    return str(place.tensor)


def test_the_first_tensor_above_its_floor_is_named_by_what_comes_before_it() -> None:
    for first, place in {
        "weight a.w": "step 1, weight a.w",
        "input of model": "step 1, input of model (Linear)",
        "output of a": "step 1, output of a (Linear)",
        "input of b": "step 1, in model, between a, which is the same, and b",
        "output of model": "step 1, in model, after b, which is the same",
        "loss": "step 1, loss",
        "gradient at the output of a": "step 1, gradient at the output of a (Linear)",
        "gradient of a.w": "step 1, gradient of a.w",
    }.items():
        start = NAMES.index(first)
        named = found(capturing(dict.fromkeys(NAMES[start:], 1e-6)))
        assert begins_at(named) == place
        assert named.same == KEYS[:start]
    assert place_lines(found(capturing(dict.fromkeys(NAMES[10:], 1e-6)))) == [
        "step 1, gradient of a.w: 9.0 decades above rounding",
        "everything before it in that step is the same: 10 tensors, last gradient at the output of a",
        "gradients at outputs are the same: look at the backward pass of its module, at clipping and scaling",
    ]


def test_rounding_names_nothing_and_a_limit_of_2_decades_and_a_half_is_for_one_seed() -> None:
    nothing = found(capturing(3e-13))
    assert (nothing.tensor, begins_at(nothing)) == (None, None)
    assert place_lines(nothing) == ["none of the 12 tensors of step 1 is above rounding"]
    assert first(found(capturing(3.4e-13))) == "weight a.w"
    seeds = [Pair(*[capturing(off) for off in (5e-14, 0.0, 0.0)], [capturing(1e-15)]) for _ in range(4)]
    for seed, pair in enumerate(seeds):
        pair.unnudged.settings["seed"] = seed
    four = find_place(seeds)
    assert four and (four.limit, first(four)) == (1.25, "weight a.w")


def test_the_first_step_counts() -> None:
    candidate = capturing(steps=(3, 4, 9))
    candidate.captures[9] = capturing(1e-3).captures[1]
    same, late = capturing(steps=(3, 4, 9)), capturing({"loss": 1e-3}).captures[1]
    nudged = capturing(1e-15, steps=(3, 4, 9))
    assert begins_at(found(candidate, same, nudged)) == "step 9, weight a.w"
    candidate.captures[4] = late
    assert begins_at(found(candidate, same, nudged)) == "step 4, loss"
    nothing = found(capturing(steps=(3, 4, 9)), same, nudged)
    assert place_lines(nothing)[0] == "none of the 12 tensors of 3 steps from 3 to 9 is above rounding"
    assert find_place([Pair(run("mine"), same, same, [nudged])]) is None, "it captured none"
    assert find_place([Pair(candidate, same, same, [])]) is None, "no floor"


def test_what_comes_to_nothing_is_no_place() -> None:
    """A mask in another form, a scaled loss."""
    assert found(capturing({"input of b": 1e-3})).tensor is None
    assert found(capturing({"gradient at the output of b": 1e3, "gradient at the output of a": 1e3})).tensor is None
    assert first(found(capturing({"input of b": 1e-3, "output of b": 1e-3}))) == "input of b"


def test_what_is_0_but_for_rounding_counts_as_0_and_an_update_rounds_as_its_weight() -> None:
    tiny = NUMBERS * 1e-16
    zero = {"gradient_at_the_output_of_a": tiny}
    candidate = capturing({"gradient at the output of a": -3.0}, **zero)
    assert found(candidate, capturing(**zero), capturing(1e-15, **zero)).tensor is None
    small = {"update_of_a_w": NUMBERS * 1e-6}
    plain, nudged = capturing(**small), capturing(1e-15, **small)
    assert found(capturing({"update of a.w": 1e-9}, **small), plain, nudged).tensor is None
    assert first(found(capturing({"update of a.w": 1e-7}, **small), plain, nudged)) == "update of a.w"


def test_what_does_not_stand_beside_each_other_is_left_out_and_said() -> None:
    candidate = capturing({"loss": 1e-3}, input_of_b=torch.ones(2, dtype=torch.float64))
    again = Key(OUTPUT, "a", call=2)
    candidate.captures[1][again] = candidate.captures[1][Key(OUTPUT, "a")]
    left = found(candidate)
    assert (first(left), {*left.left_out}) == ("loss", {Key(INPUT, "b"), Key(OUTPUT, "a"), again})
    assert place_lines(left)[-1].startswith("not compared, for want of a counterpart: ")
    assert place_lines(left)[-1].endswith(" and 2 more")
    for key in (Key(INPUT, "a"), Key(OUTPUT, "a"), again, Key(GRADIENT_AT, "a")):
        del candidate.captures[1][key]
    assert place_lines(found(candidate))[-2].endswith("called as .forward): a")


def test_names_may_be_mapped_by_whole_parts_of_their_paths() -> None:
    theirs = capturing({"loss": 1e-3})
    captured = theirs.captures[1]
    theirs.captures[1] = {key._replace(path=re.sub(r"^a\b", "h.output", key.path)): captured[key] for key in captured}
    assert Key(OUTPUT, "a") in found(theirs).left_out
    rename_captures(theirs, {"h.output": "a", "utput": "wrong"})
    assert (first(found(theirs)), found(theirs).left_out) == ("loss", [])
    rename_captures(theirs, {"a": "b", "b": "a"})
    rename_captures(theirs, {"a": "b", "b": "a"})
    assert found(theirs).left_out == []
    with pytest.raises(BadInput, match="rename=.* gives two tensors one name: map each module to another"):
        rename_captures(theirs, {"b": "a"})


def test_an_input_in_another_form_is_no_place_even_if_a_mistake_stands_later_in_the_same_module() -> None:
    mask = torch.arange(8.0, dtype=torch.float64)
    given = {"input_of_model": mask, "input_of_a": mask}
    wrong = {
        "input of model": 1e-3,
        "input of a": 1e-3,
        "input of b": 1e-3,
        "output of b": 1e-3,
        "output of model": 1e-3,
    }
    assert first(found(capturing(wrong, **given), capturing(**given), capturing(1e-15, **given))) == "input of b"


def test_in_float32_the_furthest_are_listed_with_a_caution() -> None:
    traces = [capturing(off) for off in (1e-3, 0.0, 1e-7)]
    for trace in traces:
        trace.settings["precision"] = "float32"
    place = found(*traces)
    assert begins_at(place) is None
    listed, caution = place_lines(place)
    assert listed.startswith("step 1, decades above rounding: ") and listed.count("(4.0)") == 3
    assert caution == "in this precision a correct change may be that far above at one tensor: record it in float64"
