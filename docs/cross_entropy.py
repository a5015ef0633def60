"""The examples and tables of docs/cross-entropy.md: `make docs` runs them and writes what they print into the page."""

import ast
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import dedent

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import xent
from benchmarks.loss import peak_in_logits, steps
from xent.losses.impostors import MISTAKES, MISTAKES_IN_IGNORING, Impostor
from xent.testing.same_learning import judge_learning
from xent.training.parity import parity
from xent.training.task import Task

PROOF = Path(__file__).parents[1] / "outputs" / "docs"


def code(*functions: Callable[..., object]) -> None:
    """Print functions as a block of code."""
    print("```python", "\n\n\n".join(inspect.getsource(function).rstrip() for function in functions), "```", sep="\n")


def body(function: Callable[..., object]) -> None:
    """Print the body of a function, without its docstring, as a block of code."""
    source = dedent(inspect.getsource(function))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    first = node.body[1] if ast.get_docstring(node) else node.body[0]
    print("```python", dedent("\n".join(source.splitlines()[first.lineno - 1 :])), "```", sep="\n")


def example(function: Callable[[], None]) -> None:
    """Print the body of a function, and under it what it prints."""
    body(function)
    print("\n```text")
    function()
    print("```")


def table(header: str, rows: Iterable[Iterable[object]]) -> None:
    """Print a table; `header` is its first line, columns apart by |."""
    print(f"| {header} |", "|" + "---|" * len(header.split("|")), sep="\n")
    for row in rows:
        print("|", " | ".join(str(cell) for cell in row), "|")


def verdicts() -> None:
    """Print the table of the proof that docs/__main__.py has run."""
    page = (PROOF / "comparison" / "report.md").read_text()
    print(page.partition("## Verdict\n\n")[2].partition("\n\n")[0])
    print("\n*" + json.loads((PROOF / "comparison" / "verdict.json").read_text())["answer"] + "*")


def on_a_gpu() -> None:
    """Print what `make cuda` found, in a line, if it has been run."""
    page = Path(__file__).parent / "cuda.md"
    if page.exists():
        print("[On a GPU](docs/cuda.md):", page.read_text().split("\n\n")[1])
    else:
        print(
            "No run on a GPU has been recorded yet. There, `make cuda` checks and measures all of it, in nine minutes."
        )


def beliefs() -> None:
    world = torch.tensor([0.7, 0.2, 0.1])  # how often each class comes
    for belief in ([0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]):
        print(belief, -(world * torch.tensor(belief).log()).sum())


def surprises() -> None:
    p = torch.tensor([0.99, 0.5, 0.1, 0.01], dtype=torch.float64, requires_grad=True)
    surprise = -p.log()
    surprise.sum().backward()
    assert p.grad is not None
    rows = zip(p.tolist(), (1 - p).tolist(), surprise.tolist(), p.grad.tolist())
    table(
        "`p` at the true class | mistake, `1 - p` | surprise, `-log p` | its derivative, `-1/p`",
        ([f"{p:g}", f"{mistake:.2f}", f"{surprise:.4f}", f"{slope:.2f}"] for p, mistake, surprise, slope in rows),
    )


def underflow() -> None:
    p = torch.full((400,), 0.1, dtype=torch.float64)  # of 400 images
    print(p.prod(), -p.log().sum())


def autograd_agrees() -> None:
    z = torch.tensor([2.0, 0.5, -1.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.0])
    p = z.softmax(0)
    loss = -(y * p.log()).sum()
    loss.backward()
    print(loss.detach(), z.grad)
    print((p - y).detach())


def slopes(p: Tensor) -> tuple[Tensor, Tensor]:
    """By the logit of the true class, of two: the derivatives of cross entropy and of half the squared error."""
    logits = torch.stack([p.logit(), torch.zeros_like(p)], dim=1).requires_grad_()
    target = torch.zeros(len(p), dtype=torch.int64)
    squared = (logits.softmax(1) - F.one_hot(target, 2)).square().sum() / 2
    losses = F.cross_entropy(logits, target, reduction="sum"), squared
    cross_entropy, squared_error = (torch.autograd.grad(loss, logits, retain_graph=True)[0][:, 0] for loss in losses)
    return cross_entropy, squared_error


def confident_mistakes() -> None:
    p = torch.tensor([0.99, 0.5, 0.1, 0.01, 1e-4], dtype=torch.float64)
    rows = zip(p.tolist(), *(slope.tolist() for slope in slopes(p)))
    table(
        "`p` at the true class | derivative of cross entropy, `p - 1` | of half the squared error",
        ([f"{p:g}", f"{one:.4f}", f"{other:.4f}"] for p, one, other in rows),
    )


def textbook(z: Tensor, t: int) -> Tensor:
    return -(z.exp() / z.exp().sum()).log()[t]


def shifted(z: Tensor, t: int) -> Tensor:
    z = z - z.max()
    return z.exp().sum().log() - z[t]


def overflow() -> None:
    rows = []
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        z = torch.tensor([1000.0, 996.0, 0.0], dtype=dtype)
        largest = torch.tensor(torch.finfo(dtype).max, dtype=torch.float64)
        found = [f"{loss(z, t).item():.4g}" for loss in (textbook, shifted) for t in (1, 2)]
        rows.append([str(dtype).removeprefix("torch."), f"{largest:.3g}", f"{largest.log():.2f}", *found])
    table(
        "type | largest number | `exp` overflows above | textbook, class 1 | class 2 | shifted, class 1 | class 2", rows
    )


def confident_rows() -> None:
    rows = []
    for ahead in (5.0, 10.0, 15.0, 20.0, 30.0):
        z, t = torch.tensor([[ahead, 0.0]]), torch.tensor([0])
        losses = F.cross_entropy(z, t), xent.cross_entropy(z, t), F.cross_entropy(z.double(), t)
        exact = torch.tensor(-ahead, dtype=torch.float64).exp().log1p()
        rows.append([f"{ahead:g}", *(f"{loss.item() + 0.0:.3g}" for loss in (*losses, exact))])
    table("target ahead by | `F.cross_entropy`, float32 | `xent.cross_entropy`, float32 | `F`, float64 | exact", rows)


def arguments() -> None:
    z = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 3.0]], dtype=torch.float64)
    t = torch.tensor([0, 2, 1])
    q = torch.tensor([[0.8, 0.1, 0.1], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4]], dtype=torch.float64)
    w = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    log_p, one_hot = z.log_softmax(1), F.one_hot(t, 3)
    surprise = -log_p[range(3), t]
    smooth = 0.9 * one_hot + 0.1 / 3
    by_hand = {
        "": ("`-log p_t`, the mean over the rows", surprise.mean(), t, {}),
        "`reduction='sum'`": ("the sum; `'none'`: each row's own", surprise.sum(), t, {"reduction": "sum"}),
        "`weight`": ("`-w_t log p_t`, divided by the sum of all `w_t`", (w[t] * surprise).sum() / w[t].sum(), t,
                     {"weight": w}),
        "`ignore_index=2`": ("without the rows of that target, in sum and number", surprise[[0, 2]].mean(), t,
                             {"ignore_index": 2}),
        "a distribution as target": ("`-sum_c q_c log p_c`", -(q * log_p).sum(1).mean(), q, {}),
        "`label_smoothing=0.1`": ("`q` becomes `0.9 q + 0.1 / C`", -(smooth * log_p).sum(1).mean(), t,
                                  {"label_smoothing": 0.1}),
        "`weight` and a distribution": ("`-sum_c w_c q_c log p_c`, divided by the number of rows",
                                        -(w * q * log_p).sum(1).mean(), q, {"weight": w}),
        "`weight` and smoothing": ("the same of the smoothed `q`, divided by the sum of all `w_t`",
                                   -(w * smooth * log_p).sum() / w[t].sum(), t, {"weight": w, "label_smoothing": 0.1}),
    }  # fmt: skip
    rows = []
    for argument, (formula, value, target, given) in by_hand.items():
        found = value, xent.cross_entropy(z, target, **given), F.cross_entropy(z, target, **given)
        rows.append([argument, formula, *(f"{each.item():.6f}" for each in found)])
    table("argument | what it makes of the formula | by hand | `xent.cross_entropy` | `F.cross_entropy`", rows)


def many_places() -> None:
    logits = torch.randn(2, 10, 32, 32)  # two images, ten classes, a target at every pixel
    target = torch.randint(10, (2, 32, 32))
    rows = xent.cross_entropy(logits.movedim(1, -1).reshape(-1, 10), target.flatten())
    print(torch.isclose(xent.cross_entropy(logits, target), rows))


def in_closed_form() -> None:
    logits = torch.randn(128, 10, dtype=torch.float64, requires_grad=True)
    target = torch.randint(10, (128,))
    loss = xent.fused_cross_entropy(logits, target)
    loss.backward()
    p = logits.detach().softmax(1)
    print(torch.allclose(logits.grad, (p - F.one_hot(target, 10)) / 128))


def memory() -> None:
    logits = torch.randn(1024, 1000, requires_grad=True)
    losses = steps(logits, torch.randint(1000, (1024,)), compiled=False)
    rows = [[f"`{name}`", f"{peak_in_logits(losses[name], logits):.1f}"] for name in losses if name != "copy"]
    table("loss | largest memory beyond the logits, in multiples of them", rows)


def order_counts() -> None:
    for dtype in (torch.float32, torch.float64):
        a, b, c = torch.tensor([0.1, 0.5, 0.8], dtype=dtype)
        print(dtype, (a + b) + c == a + (b + c), (((a + b) + c) / (a + (b + c)) - 1).item())


def gallery() -> None:
    """Each impostor, where it shows on the logits of one batch, and how its training is judged, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(128, 10, generator=generator, dtype=torch.float64)
    target = torch.randint(10, (128,), generator=generator)
    rows = []
    for name, mistake in MISTAKES.items():
        ignored = 0.2 if name in MISTAKES_IN_IGNORING else 0.0
        ignore_index = 0 if ignored else -100
        reference, loss = nn.CrossEntropyLoss(ignore_index=ignore_index), Impostor(name, ignore_index)
        z = logits.clone().requires_grad_()
        value = loss(z, target)
        value.backward()
        errors = parity(z, target, value, reference)
        judgement = judge_learning(loss, reference, Task(10, ignored, ignore_index))
        found = [f"{errors[f'train_parity/{of}_error']:.0e}" for of in ("loss", "gradient")]
        rows.append([f"`{name}`", (mistake.__doc__ or "").strip().rstrip("."), *found, judgement.left_floor,
                     f"{judgement.outputs.margin:+.1f}", judgement.verdict])  # fmt: skip
    table(
        "impostor | its mistake | loss off by | gradient off by | left the floor at step | decades above | verdict",
        rows,
    )
