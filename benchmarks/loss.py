"""Time and memory of the losses: python -m benchmarks.loss [device=cuda] [compiled=true] [shapes=8192x128256,64x10]

Forward and backward of every loss in float32, over the time of `F.cross_entropy`, and of a plain copy of the logits as
the floor. All take turns, so that what disturbs the machine disturbs all; a ratio is the median over the rounds. Memory
is the peak of what is allocated during a step, the gradient included, in multiples of the logits.

`compiled=true` adds every loss under `torch.compile`, for one or two minutes more. Without `shapes=`, a GPU also gets
the logits of a language model, 8192 x 128256, which take 4 GB and up to 13 GB more.

On Linux, most of the time of a large batch can be the system's, which takes large blocks of memory back and hands them
out again; `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000` before the command keeps them.
"""

import gc
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import xent
from benchmarks.measure import CONSOLE, arguments, deterministic, interleaved, ratio, seconds, table, typical

SHAPES = [(64, 10), (128, 10), (1024, 10), (8192, 10), (1024, 1000), (8192, 1000), (256, 32_000), (64, 128_256)]
LARGE = 8192, 128_256
ROUNDS = 15
SECONDS_A_TURN = 0.02

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[], object]
LOSSES: dict[str, Loss] = {
    "torch": cross_entropy,
    "article": xent.ArticleCrossEntropyLoss(),
    "scratch": xent.cross_entropy,
    "fused": xent.fused_cross_entropy,
}


def steps(logits: Tensor, target: Tensor, compiled: bool = False) -> dict[str, Step]:
    """A function for every loss, which makes its forward and backward pass."""
    losses = LOSSES | ({f"{name} compiled": torch.compile(loss) for name, loss in LOSSES.items()} if compiled else {})

    def step(loss: Loss) -> Step:
        def run() -> None:
            logits.grad = None
            loss(logits, target).backward()

        return run

    return {name: step(loss) for name, loss in losses.items()}


def peak_bytes(step: Step, device: torch.device) -> int:
    """The most that is allocated at once during a step, beyond what was before."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        step()
        return torch.accelerator.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes of its start and stop
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def peak_in_logits(step: Step, logits: Tensor) -> float:
    """The peak of a step in multiples of the logits, its gradient included."""
    logits.grad = None
    gc.collect()
    return peak_bytes(step, logits.device) / (logits.numel() * logits.element_size())


def measured(batch: int, classes: int, device: torch.device, compiled: bool) -> dict[str, tuple[float, float, float]]:
    """Measure the losses of logits `[batch, classes]`, and a copy of the logits.

    Returns:
        the seconds of a step with every loss, these over PyTorch's, and the peak of memory in multiples of the logits.
    """
    logits = torch.randn(batch, classes, device=device, requires_grad=True)
    target = torch.randint(classes, (batch,), device=device)
    torch._dynamo.reset()
    works = steps(logits, target, compiled) | {"copy": lambda: logits.detach().clone()}
    for work in works.values():
        work()  # compiles
    repeats = {name: max(1, int(SECONDS_A_TURN / seconds(work, 3))) for name, work in works.items()}
    rounds = interleaved(works, ROUNDS, repeats)
    return {
        name: (typical(rounds, name), ratio(rounds, name, "torch"), peak_in_logits(work, logits))
        for name, work in works.items()
    }


def main() -> None:
    device_name, compiled, chosen = arguments(device="cpu", compiled="false", shapes="")
    device = deterministic(device_name)
    shapes = SHAPES if device.type == "cpu" else [*SHAPES, LARGE]
    if chosen:
        shapes = [(int(batch), int(classes)) for batch, classes in (shape.split("x") for shape in chosen.split(","))]
    result = table("Losses", "batch x classes", "loss", "us", "time", "peak of memory", device=device)
    for batch, classes in shapes:
        for name, (time, over_torch, peak) in measured(batch, classes, device, compiled == "true").items():
            result.add_row(f"{batch} x {classes}", name, f"{time * 1e6:.0f}", f"{over_torch:.2f}", f"{peak:.1f}")
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
