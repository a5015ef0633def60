"""How exact the losses are, in units in the last place: python -m benchmarks.exactness

Every loss and its gradient, row by row, against an oracle of higher precision: float64 for the types of up to 32 bits,
mpmath with 50 digits for float64. A unit in the last place (ULP) is the distance from the exact value to the next
number of the type, so a perfectly rounded result is off by at most 0.5. The largest and the mean error are printed.
"""

from collections.abc import Callable, Iterator

import mpmath  # type: ignore[import-untyped]
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import xent
from benchmarks.measure import CONSOLE, arguments, table

LOSSES: dict[str, Callable[..., Tensor]] = {
    "torch": cross_entropy,
    "scratch": xent.cross_entropy,
    "fused": xent.fused_cross_entropy,
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STATISTICS: dict[str, Callable[[np.ndarray], float]] = {"largest": np.max, "mean": np.mean}
mpmath.mp.dps = 50


def cases(dtype: torch.dtype, elements: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Names, about so many logits `[N, C]` of `dtype`, and targets `[N]`."""
    generator = torch.Generator().manual_seed(0)

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

    The terms of the target and of the others are kept apart, so that nothing cancels:
    `-log p_t = log1p(others / at_target)`.
    """
    z, exp, log1p = logits.double().numpy(), np.exp, np.log1p
    if logits.dtype == torch.float64:
        z = np.frompyfunc(mpmath.mpf, 1, 1)(z)
        exp, log1p = np.frompyfunc(mpmath.exp, 1, 1), np.frompyfunc(mpmath.log1p, 1, 1)
    row = np.arange(len(z))
    distance = z.max(axis=1) - z[row, target]
    terms = exp(z - z.max(axis=1, keepdims=True))
    at_target = terms[row, target]
    terms[row, target] = 0 * at_target
    others = terms.sum(axis=1)
    gradient = terms / (others + at_target)[:, None]
    gradient[row, target] = -others / (others + at_target)
    return log1p(others + (at_target - 1)) + distance, gradient


def errors(computed: Tensor, exact: np.ndarray) -> np.ndarray:
    """How far every element is from the exact value, in units in the last place of that value."""
    info = torch.finfo(computed.dtype)
    approximately = np.abs(exact.astype(np.float64))
    _, exponent = np.frexp(approximately)
    ulp = np.maximum(np.ldexp(info.eps, exponent - 1), info.smallest_normal * info.eps)
    overflowed = computed.isinf().numpy() & (approximately >= info.max)  # rightly: the exact value is out of range
    values = computed.double().numpy()
    if exact.dtype == object:
        values = np.frompyfunc(mpmath.mpf, 1, 1)(values)
    return np.where(overflowed, 0, np.abs(values - exact) / ulp).astype(np.float64)


def measure(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The losses `[N]` and their gradients `[N, C]`."""
    logits = logits.clone().requires_grad_()
    losses = loss(logits, target, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]


def case_errors(logits: Tensor, target: Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The errors of the losses, and those of their gradients: an array for every loss function."""
    exact_losses, exact_gradients = oracle(logits, target)
    losses, gradients = zip(*(measure(loss, logits, target) for loss in LOSSES.values()))
    return [errors(e, exact_losses) for e in losses], [errors(e, exact_gradients).ravel() for e in gradients]


def main() -> None:
    (elements,) = arguments(elements="200000")
    columns = [f"{name} {statistic}" for statistic in STATISTICS for name in LOSSES]
    result = table("Error in ULP", "quantity", "logits", *columns, device=torch.device("cpu"))
    count = larger = 0
    for dtype in DTYPES:
        number = int(elements) // (10 if dtype == torch.float64 else 1)  # mpmath takes long
        by_case = {case: case_errors(logits, target) for case, logits, target in cases(dtype, number)}
        for i, quantity in enumerate(("loss", "gradient")):
            rows = {case: both[i] for case, both in by_case.items()}
            rows["all of these"] = [np.concatenate(arrays) for arrays in zip(*rows.values())]
            for case, arrays in rows.items():
                figures = [[statistic(array) for array in arrays] for statistic in STATISTICS.values()]
                texts = (f"{figure:.3g}" for row in figures for figure in row)
                result.add_row(f"{quantity}, {str(dtype).removeprefix('torch.')}", case, *texts)
                if case in by_case:
                    count += sum(len(ours) for _, *ours in figures)
                    larger += sum(figure > pytorchs for pytorchs, *ours in figures for figure in ours)
    CONSOLE.print(result)
    print(f"{larger} of the {count} figures of scratch and fused in the table by case are larger than PyTorch's.")


if __name__ == "__main__":
    main()
