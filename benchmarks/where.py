"""Where mistakes are named, and whether correct changes are: python -m benchmarks.where [page=docs/where.md]

Every change of benchmarks/programs.py in float64, a few minutes on two cores. A mistake is proved to be one, and then
looked for from the step at which the proof saw it, as a failing `assert_same_training` does. A correct change must name
nothing at any power of two among the steps.
"""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context

import torch

from benchmarks.measure import arguments, as_markdown, write_into
from benchmarks.programs import LATE, PROGRAMS, STEPS, STEPS_OF_LATE, late_mistake
from xent.recording.capture import KINDS
from xent.report.place import begins_at
from xent.testing.same_training import judge_training
from xent.testing.trained import Train, place_among, where_it_begins
from xent.verdict.judging import Verdict

BEGIN = "<!-- python -m benchmarks.where page=docs/where.md -->"
NOTHING = "nothing"
EXPECTED = {  # fifteen mistakes in three programs, in all that a step is made of, early and late
    ("text", "RMSNorm eps x 1.001"): "step 1, output of blocks.0.first (RMSNorm)",
    ("text", "attention scale x 1.001"): "step 1, in blocks.0, between qkv, which is the same, and out",
    ("text", "mask sees one ahead"): "step 1, in blocks.0, between qkv, which is the same, and out",
    ("text", "GELU by tanh"): "step 1, in blocks.0, between up, which is the same, and down",
    ("text", "first target ignored"): "step 1, loss",
    ("text", "beta2 0.998"): "step 2, update of tokens.weight",
    ("text", "schedule a step late"): "step 1, update of tokens.weight",
    ("sequences", "read backwards"): "step 1, in model, before gates",
    ("sequences", "forget gate + 0.001"): "step 1, in model, between gates #2, which is the same, and gates #3",
    ("sequences", "cells detached"): "step 1, gradient at the output of gates #7 (Linear)",
    ("sequences", "a class x 1.01"): "step 1, loss",
    ("late", "moments lost"): "step 97, update of 0.weight",
    ("late", "lr x 1.2"): "step 97, update of 0.weight",
    ("late", "clipping off"): "step 97, gradient of 0.weight",
    ("late", "a batch twice"): "step 97, input of model (Sequential)",
}


def training(program: str, change: str) -> tuple[Train, int]:
    """The training of a program with a change, and its number of steps. `late` is that of the late mistakes."""
    if program == "late":
        return partial(late_mistake, "mlp", change=change), STEPS_OF_LATE
    return lambda recorder: PROGRAMS[program].train(recorder, change), STEPS


def named(program: str, change: str, is_wrong: bool) -> str:
    """The place that is named for a change, in a failing proof or in all captured steps."""
    torch.set_num_threads(1)
    (train, steps), (reference, _) = training(program, change), training(program, "")
    if is_wrong:
        judgement = judge_training(train, reference, steps, dtype=torch.float64)
        if judgement.verdict not in (Verdict.DIFFERENT, Verdict.OTHER_VALUES):
            return f"nothing, since {judgement.verdict}"
        return where_it_begins(train, reference, judgement, {}, torch.float64, None)[0].partition(":")[0]
    octaves = [2**k for k in range(steps.bit_length())]
    place = place_among(train, reference, octaves, steps, {}, torch.float64)
    return (place and begins_at(place)) or NOTHING


def main() -> None:
    (page,) = arguments(page="")
    correct = [(name, change, False) for name, program in PROGRAMS.items() for change in program.correct]
    wrong = [(name, change, True) for name, program in PROGRAMS.items() for change in program.wrong]
    wrong += [(*late, True) for late in product(["late"], LATE)]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        places = dict(zip([*correct, *wrong], pool.map(named, *zip(*correct, *wrong))))
    rows = [["program", "mistake", "is named at", "as expected"]]
    for (program, change), expected in EXPECTED.items():
        place = places[program, change, True]
        rows.append([program, change, place, "yes" if place == expected else f"no: {expected}"])
    kinds = Counter(_kind(places[mistake]) for mistake in wrong)
    counts = [["all mistakes are named at", "how many"], *([kind, str(count)] for kind, count in kinds.most_common())]
    named_wrongly = [f"{name}: {change}, {places[name, change, False]}" for name, change, _ in correct]
    named_wrongly = [line for line in named_wrongly if not line.endswith(NOTHING)]
    right = [
        ["correct changes", "named", "which"],
        [str(len(correct)), str(len(named_wrongly)), "; ".join(named_wrongly)],
    ]
    sections = {"Fifteen mistakes": rows, "Every mistake of the programs": counts, "Correct changes": right}
    text = "\n".join(as_markdown(title, section) for title, section in sections.items())
    print(text)
    write_into(page, BEGIN, text)


def _kind(place: str) -> str:
    """What kind of tensor a place is, in words."""
    tensor = place.partition(", ")[2]
    between = "the code between two modules" if tensor.startswith("in ") else place
    return next((kind for kind in KINDS if tensor.startswith(kind)), between)


if __name__ == "__main__":
    main()
