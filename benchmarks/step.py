"""What a step costs inside all_in_float64, and when it is captured: python -m benchmarks.step [device=cuda]

A small network, where calls of operations are all that takes time, and a transformer, which is busy with arithmetic;
each beside the same step of the same weights in plain float64.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from benchmarks.measure import CONSOLE, Work, arguments, deterministic, interleaved, ratio, table, typical
from xent.recording import all_in_float64
from xent.recording.capture import Capture, Captured, Key

ROUNDS = 15
Context = Callable[[], AbstractContextManager[object]]


def mlp() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10)), torch.randn(64, 20)


def transformer() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 4), torch.randn(4, 64, 256)


def step(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def captured(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> dict[Key, Captured]:
    capture = Capture([model])
    return capture.finish(step(model, x, optimizer))


def work(make: Callable[..., object], model: nn.Module, x: Tensor, count: int, context: Context = nullcontext) -> Work:
    """A function that makes so many steps in a context."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def steps() -> None:
        with context():
            for _ in range(count):
                make(model, x, optimizer)

    return steps


def main() -> None:
    (name,) = arguments(device="cpu")
    device = deterministic(name)
    titles = "plain float64", "inside all_in_float64", "captured", "kilobytes captured"
    rows = table("A step of a training", "network", *titles, device=device)
    for make, count in ((mlp, 100), (transformer, 1)):
        model, x = make()
        model, x = model.to(device, torch.float64), x.to(device, torch.float64)
        variants = {"plain": work(step, model, x, count), "inside": work(step, model, x, count, all_in_float64)}
        variants["captured"] = work(captured, model, x, count)
        rounds = interleaved(variants, ROUNDS)
        milliseconds = typical(rounds, "plain") / count * 1e3
        ratios = [f"{ratio(rounds, variant, 'plain'):.2f} times" for variant in ("inside", "captured")]
        sketches = captured(model, x, torch.optim.SGD(model.parameters(), 0.01)).values()
        kilobytes = sum(one.sketch.numel() * 8 for one in sketches) / 1024
        rows.add_row(make.__name__, f"{milliseconds:.2f} ms", *ratios, f"{kilobytes:.0f}, of {len(sketches)} tensors")
    CONSOLE.print(rows)


if __name__ == "__main__":
    main()
