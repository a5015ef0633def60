"""Losses of as many rows and classes as language models have: python -m benchmarks.large_loss [device=cuda]

Forward and backward, of `rows=8192` and `classes=128256` unless said otherwise: of logits in float32, and of features
in bfloat16 with the linear layer inside, where a loss can do without the logits. Liger Kernel's losses too, where they
are installed. Time and peak memory, beyond what was there before, are over those of PyTorch's loss.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

import xent
from benchmarks.loss import peak_bytes
from benchmarks.measure import CONSOLE, interleaved, measured_device, option, ratio, table, typical

WIDTH = 2048  # of the features
ROUNDS = 7

Loss = Callable[..., Tensor]


def of_logits(device: torch.device) -> dict[str, Loss]:
    """Losses of `(logits, target)`, PyTorch's first."""
    ours = {"scratch": xent.cross_entropy, "fused": xent.fused_cross_entropy}
    found: dict[str, Loss] = {"torch": cross_entropy, **ours}
    found |= {f"{name} compiled": torch.compile(loss) for name, loss in found.items()}
    liger = _liger("LigerCrossEntropyLoss", device)
    return found | ({"liger": liger()} if liger else {})


def of_features(device: torch.device) -> dict[str, Loss]:
    """Losses of `(features, weight of the layer, target)`, PyTorch's first."""
    found: dict[str, Loss] = {
        "linear, torch": lambda x, weight, target: cross_entropy(linear(x, weight), target),
        "linear, fused": lambda x, weight, target: xent.fused_cross_entropy(linear(x, weight), target),
    }
    if hasattr(nn, "LinearCrossEntropyOptions"):  # which has it in chunks, without the logits
        in_chunks = partial(nn.functional.linear_cross_entropy, options=nn.LinearCrossEntropyOptions())
        found["torch linear_cross_entropy"] = in_chunks
    liger = _liger("LigerFusedLinearCrossEntropyLoss", device)
    if liger:
        loss = liger()
        found["liger linear"] = lambda x, weight, target: loss(weight, x, target)
    return found


def _liger(name: str, device: torch.device) -> Callable[[], Loss] | None:
    """A loss of Liger Kernel's, where it is installed and has a GPU."""
    try:
        from liger_kernel import transformers
    except ImportError:
        return None
    found: Callable[[], Loss] | None = getattr(transformers, name, None) if device.type != "cpu" else None
    return found


def measured(
    losses: dict[str, Loss], *tensors: Tensor, target: Tensor, rounds: int = ROUNDS
) -> dict[str, tuple[float, float, float]]:
    """Seconds of a step with each loss, and its time and its peak memory over the first's."""

    def step(loss: Loss) -> Callable[[], None]:
        def run() -> None:
            for tensor in tensors:
                tensor.grad = None
            loss(*tensors, target).backward()

        return run

    steps = {name: step(loss) for name, loss in losses.items()}
    for name, each in list(steps.items()):
        try:
            each()  # compiles
        except Exception as error:  # of others' losses, which must not end the measurement of ours
            print(f"{name}: {type(error).__name__}: {error}")
            del steps[name]
    peaks = {}
    for name, each in steps.items():
        for tensor in tensors:
            tensor.grad = None
        peaks[name] = peak_bytes(each, target.device)
    timed, first = interleaved(steps, rounds), next(iter(losses))
    return {name: (typical(timed, name), ratio(timed, name, first), peaks[name] / peaks[first]) for name in steps}


def all_measured(
    device: torch.device, rows: int, classes: int, rounds: int = ROUNDS
) -> dict[str, tuple[float, float, float]]:
    """What `measured` finds of the losses of logits, and of those with the layer inside."""
    target = torch.randint(classes, (rows,), device=device)
    logits = torch.randn(rows, classes, device=device, requires_grad=True)
    found = measured(of_logits(device), logits, target=target, rounds=rounds)
    del logits
    features = torch.randn(rows, WIDTH, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(classes, WIDTH, device=device, dtype=torch.bfloat16) / WIDTH**0.5).requires_grad_()
    return found | measured(of_features(device), features, weight, target=target, rounds=rounds)


def main() -> None:
    device, rows, classes = measured_device(), int(option("rows", "8192")), int(option("classes", "128256"))
    result = table(f"Losses of {rows} x {classes}", "loss", "ms a step", "time", "peak memory", device=device)
    for name, (seconds, time, memory) in all_measured(device, rows, classes).items():
        result.add_row(name, f"{seconds * 1e3:.2f}", f"{time:.2f}", f"{memory:.2f}")
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
