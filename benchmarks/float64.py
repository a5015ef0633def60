"""What a step costs inside all_in_float64: python -m benchmarks.float64 [device=cuda]

A small network, where calls of operations are all that takes time, and a transformer, which is busy with arithmetic;
each beside the same step of the same weights in plain float64.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from benchmarks.measure import CONSOLE, Work, arguments, deterministic, interleaved, ratio, table, typical
from xent.recording import all_in_float64

ROUNDS = 15
Context = Callable[[], AbstractContextManager[object]]


def mlp() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10)), torch.randn(64, 20)


def transformer() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 4), torch.randn(4, 64, 256)


def steps(model: nn.Module, x: Tensor, count: int, context: Context) -> Work:
    """A function that makes so many steps in a context."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def work() -> None:
        with context():
            for _ in range(count):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()

    return work


def main() -> None:
    (name,) = arguments(device="cpu")
    device = deterministic(name)
    rows = table("A step inside all_in_float64", "network", "plain float64", "inside, over plain", device=device)
    for make, count in ((mlp, 100), (transformer, 1)):
        model, x = make()
        model, x = model.to(device, torch.float64), x.to(device, torch.float64)
        contexts: dict[str, Context] = {"plain": nullcontext, "inside": all_in_float64}
        rounds = interleaved({name: steps(model, x, count, context) for name, context in contexts.items()}, ROUNDS)
        milliseconds = typical(rounds, "plain") / count * 1e3
        rows.add_row(make.__name__, f"{milliseconds:.2f} ms", f"{ratio(rounds, 'inside', 'plain'):.2f}")
    CONSOLE.print(rows)


if __name__ == "__main__":
    main()
