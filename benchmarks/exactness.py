"""How exact the losses are, in units in the last place: python -m benchmarks.exactness

Each loss and its gradient, row by row, against an oracle of higher precision: float64 for the types of up to 32 bits,
mpmath with 50 digits for float64. A unit in the last place (ULP) is the distance from the exact value to the next
number of the type, so a perfectly rounded result is off by at most 0.5. The largest and the mean error are printed.
"""

from collections.abc import Callable, Iterator

import mpmath
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

import xent

LOSSES = {"torch": cross_entropy, "scratch": xent.cross_entropy, "fused": xent.fused_cross_entropy}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
mpmath.mp.dps = 50


def cases(dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Names, logits `[N, C]` of `dtype` and targets `[N]`."""
    generator = torch.Generator().manual_seed(0)
    elements = 20_000 if dtype == torch.float64 else 200_000

    def normal(classes: int, scale: float) -> Tensor:
        rows = max(elements // classes, 1)
        return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)

    def anywhere(logits: Tensor) -> Tensor:
        return torch.randint(logits.shape[1], logits.shape[:1], generator=generator)

    for scale in (1e-3, 1.0, 10.0, 100.0, 1e4):
        logits = normal(10, scale).to(dtype)
        yield f"10 classes, scale {scale:g}", logits, anywhere(logits)
    for classes in (1, 2, 1000, 100_000):
        logits = normal(classes, 3.0).to(dtype)
        yield f"{classes} classes, scale 3", logits, anywhere(logits)
    ties = (normal(10, 10.0)[:, :1] + normal(10, 1e-3)).to(dtype)
    yield "near-ties around one value", ties, anywhere(ties)
    logits = normal(10, 1.0)
    target = anywhere(logits)
    confident = logits.scatter_add(1, target[:, None], 30 * torch.rand(len(target), 1, generator=generator).double())
    yield "target up to 30 on top", confident.to(dtype), target
    yield "another up to 30 on top", confident.to(dtype), (target + 1) % 10
    some = torch.rand(logits.shape, generator=generator) < 0.3
    infinite = logits.masked_fill(some.scatter(1, target[:, None], False), -torch.inf).to(dtype)
    yield "three in ten logits -inf", infinite, target
    largest = torch.finfo(dtype).max
    yield "largest finite logits", (logits.sign() * largest).to(dtype), anywhere(logits)


def oracle(logits: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Losses `[N]` and their gradients `[N, C]`, exact to well beyond the type of the logits.

    The terms of the target and of the others are kept apart, so that nothing cancels: `-log p_t = log1p(others / own)`.
    """
    z, exp, log1p = logits.double().numpy(), np.exp, np.log1p
    if logits.dtype == torch.float64:
        z = np.frompyfunc(mpmath.mpf, 1, 1)(z)
        exp, log1p = np.frompyfunc(mpmath.exp, 1, 1), np.frompyfunc(mpmath.log1p, 1, 1)
    row = np.arange(len(z))
    distance = z.max(axis=1) - z[row, target]
    terms = exp(z - z.max(axis=1, keepdims=True))
    own = terms[row, target]
    terms[row, target] = 0 * own
    others = terms.sum(axis=1)
    gradient = terms / (others + own)[:, None]
    gradient[row, target] = -others / (others + own)
    return log1p(others + (own - 1)) + distance, gradient


def errors(found: Tensor, exact: np.ndarray) -> np.ndarray:
    """How far each element is from the exact value, in units in the last place of that value."""
    info = torch.finfo(found.dtype)
    approximately = np.abs(exact.astype(np.float64))
    _, exponent = np.frexp(approximately)
    ulp = np.maximum(np.ldexp(info.eps, exponent - 1), info.smallest_normal * info.eps)
    overflowed = found.isinf().numpy() & (approximately >= info.max)  # rightly: the exact value is out of range
    values = found.double().numpy()
    if exact.dtype == object:
        values = np.frompyfunc(mpmath.mpf, 1, 1)(values)
    return np.where(overflowed, 0, np.abs(values - exact) / ulp).astype(np.float64)


def measure(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    losses = loss(logits, target, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]


def figures(found: list[np.ndarray]) -> list[float]:
    """The largest error of each loss, then the mean error of each."""
    return [statistic(error) for statistic in (np.max, np.mean) for error in found]


def main() -> None:
    columns = [f"{name} {statistic}" for statistic in ("largest", "mean") for name in LOSSES]
    summary = Table("all of the above", *columns, title="Error in ULP", title_justify="left")
    console = Console(width=140)
    count = larger = 0
    for dtype in DTYPES:
        for i, quantity in enumerate(("loss", "gradient")):
            title = f"{quantity} in {str(dtype).removeprefix('torch.')}"
            table = Table("logits", *columns, title=f"Error of the {title}, in ULP", title_justify="left")
            all_errors = []
            for name, logits, target in cases(dtype):
                exact = oracle(logits, target)[i]
                found = [errors(measure(loss, logits, target)[i], exact).ravel() for loss in LOSSES.values()]
                row = figures(found)
                table.add_row(name, *(f"{figure:.3g}" for figure in row))
                ours = [(figure, row[k - k % len(LOSSES)]) for k, figure in enumerate(row) if k % len(LOSSES)]
                count += len(ours)
                larger += sum(figure > theirs for figure, theirs in ours)
                all_errors.append(found)
            console.print(table)
            summary.add_row(title, *(f"{f:.3g}" for f in figures([np.concatenate(e) for e in zip(*all_errors)])))
    console.print(summary)
    print(f"{larger} of the {count} figures of scratch and fused in the tables by case are larger than PyTorch's.")


if __name__ == "__main__":
    main()
