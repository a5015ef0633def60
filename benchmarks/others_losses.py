"""Losses as others write them, judged in every precision: python -m benchmarks.others_losses [page=docs/verdict.md]

Some train as the reference does and are `other in trials`, which `assert_same_learning` makes after the training.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import torch

from benchmarks.measure import arguments, as_markdown, write_into
from tests.helpers.right_losses import EVERY, RIGHT
from tests.helpers.wrong_losses import WRONG
from xent.recording.errors import BadInput
from xent.report.page import Rows
from xent.testing.same_learning import differing_in_trials, judge_learning
from xent.testing.same_training import SAME
from xent.training.task import Task
from xent.verdict.judging import Judgement, Verdict

BEGIN = "<!-- python -m benchmarks.others_losses page=docs/verdict.md -->"


def in_short(judgement: Judgement) -> str:
    """Decades above the floor, and the verdict where it is not `same within rounding`."""
    if judgement.verdict is Verdict.IDENTICAL:
        return "identical"
    decades = judgement.losses.margin if judgement.verdict is Verdict.OTHER_VALUES else judgement.excess[0]
    word = {Verdict.SAME: "", Verdict.COARSER: " coarser"}.get(judgement.verdict, f" {judgement.verdict}")
    return f"{decades:+.2f}{word}"


def judged(name: str, dtype: torch.dtype) -> str:
    """The judgement of a loss in a precision; empty where it does not compute in that."""
    case = (RIGHT | WRONG)[name]
    if dtype not in case.dtypes:
        return ""
    try:
        three = case.loss, case.reference, Task(dtype=dtype, **{"classes": 10} | case.task)
        judgement = judge_learning(*three)
        in_trials = judgement.verdict in SAME and differing_in_trials(*three)[0]
        return in_short(judgement) + (" other in trials" if in_trials else "")
    except BadInput:
        return "refused"


def others_losses() -> dict[str, Rows]:
    """Two tables, of right losses and of wrong ones, in the precisions that they are judged in."""
    titles = {"Right losses as others write them": RIGHT, "Wrong losses as others write them": WRONG}
    header = ["loss", *(str(dtype).removeprefix("torch.") for dtype in EVERY)]
    cells = list(product(RIGHT | WRONG, EVERY))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        texts = dict(zip(cells, pool.map(judged, *zip(*cells))))
    return {
        title: [header, *([name, *(texts[name, dtype] for dtype in EVERY)] for name in cases)]
        for title, cases in titles.items()
    }


def main() -> None:
    (page,) = arguments(page="")
    text = "\n".join(as_markdown(title, rows) for title, rows in others_losses().items())
    print(text)
    write_into(page, BEGIN, text)


if __name__ == "__main__":
    main()
