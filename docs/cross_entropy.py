"""What the pages do not hold as text: code quoted from the package, and tables of what is computed."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import torch
from torch import nn

from xent import ArticleCrossEntropyLoss
from xent.losses.impostors import MISTAKES, MISTAKES_IN_IGNORING, Impostor
from xent.losses.scratch import surprise
from xent.report.page import markdown_table
from xent.testing.same_learning import judge_learning
from xent.training.diagnostics import parity
from xent.training.task import Task

DOCS = Path(__file__).parent
PROOF = DOCS.parent / "outputs" / "docs"  # the sweep that docs/__main__.py trains
MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def renewed(page: str) -> str:
    """The text of a page, with everything between `<!-- begin NAME -->` and `<!-- end -->` written anew."""
    return MARKED.sub(lambda mark: mark[1] + PARTS[mark[2]](), page)


def quoted(function: Callable[..., object]) -> str:
    """The source of a function, after its docstring if it has one, as a block of code."""
    code = inspect.getsource(function).rpartition('"""\n')[2]
    return f"```python\n{dedent(code)}```\n"


def gallery() -> str:
    """A row for every impostor: its errors on one batch of logits, and how its training is judged, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(128, 10, generator=generator, dtype=torch.float64)
    target = torch.randint(10, (128,), generator=generator)
    header = ["impostor", "its mistake", "loss off by", "gradient off by"]
    rows = [[*header, "left the floor at step", "decades above", "verdict"]]
    for name, mistake in MISTAKES.items():
        ignored, ignore_index = (0.2, 0) if name in MISTAKES_IN_IGNORING else (0.0, -100)
        reference, loss = nn.CrossEntropyLoss(ignore_index=ignore_index), Impostor(name, ignore_index)
        z = logits.clone().requires_grad_()
        value = loss(z, target)
        (gradient,) = torch.autograd.grad(value, z)
        errors = parity(z, target, value.detach(), gradient, reference)
        off_by = [f"{errors[f'train_parity/{quantity}_error']:.0e}" for quantity in ("loss", "gradient")]
        judgement = judge_learning(loss, reference, Task(10, ignored, ignore_index))
        step = judgement.left_floor
        above = (str(step), f"{judgement.excess[0]:+.1f}") if step else ("", "")
        rows.append([f"`{name}`", (mistake.__doc__ or "").strip().rstrip("."), *off_by, *above, judgement.verdict])
    return markdown_table(rows)


def verdicts() -> str:
    """The table of the proof, and its answer."""
    report = (PROOF / "comparison" / "report.md").read_text()
    table = report.partition("## Verdict\n\n")[2].partition("\n\n")[0]
    answer = json.loads((PROOF / "comparison" / "verdict.json").read_text())["answer"]
    return f"{table}\n\n*{answer}*\n"


def on_a_gpu() -> str:
    """A line of what `make cuda` found, if it has been run."""
    page = DOCS / "cuda.md"
    if page.exists():
        return "[On a GPU](docs/cuda.md): " + page.read_text().split("\n\n")[1] + "\n"
    return "No run on a GPU has been recorded yet. There, `make cuda` checks and measures all of it, in nine minutes.\n"


PARTS: dict[str, Callable[[], str]] = {
    "scratch": lambda: quoted(surprise),
    "article": lambda: quoted(ArticleCrossEntropyLoss.forward),
    "gallery": gallery,
    "verdicts": verdicts,
    "on_a_gpu": on_a_gpu,
}
