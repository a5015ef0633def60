"""Time and memory of the losses, side by side: python -m benchmarks.loss [device=cuda] [compiled=false]

Forward and backward of each loss, as a ratio to `F.cross_entropy`, and of a plain copy of the logits as the floor. In
every round each runs in turn, so that what disturbs the machine disturbs all; the median of the rounds' ratios is
printed. Memory is the peak of what is allocated during a step, the gradient included, in multiples of the logits.
"""

import gc
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

import xent

SHAPES = [(64, 10), (128, 10), (1024, 10), (8192, 10), (1024, 1000), (8192, 1000), (256, 32_000), (64, 128_256)]
ROUNDS = 15
SECONDS_A_TURN = 0.02

Step = Callable[[], object]


def steps(logits: Tensor, target: Tensor, compiled: bool) -> dict[str, Step]:
    """Forward and backward of each loss, by name."""
    losses = {
        "torch": cross_entropy,
        "article": xent.CrossEntropyLossFromScratch(),
        "scratch": xent.cross_entropy,
        "fused": xent.fused_cross_entropy,
    }
    if compiled:
        losses |= {f"{name} compiled": torch.compile(loss) for name, loss in losses.items()}

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
        def run() -> None:
            logits.grad = None
            loss(logits, target).backward()

        return run

    return {"copy": lambda: logits.detach().clone()} | {name: step(loss) for name, loss in losses.items()}


def seconds(step: Step, repeats: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def peak_bytes(step: Step, device: torch.device) -> int:
    """The most that is allocated at once during a step, beyond what was before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    device = torch.device(options.get("device", "cpu"))
    compiled = options.get("compiled", "true") == "true"
    names = list(steps(torch.zeros(1, 2), torch.zeros(1), compiled))
    times = Table("batch x classes", "torch", *(name for name in names if name != "torch"))
    memory = Table("batch x classes", *(name for name in names if name != "copy"))
    for batch, classes in SHAPES:
        logits = torch.randn(batch, classes, device=device, requires_grad=True)
        target = torch.randint(classes, (batch,), device=device)
        torch._dynamo.reset()
        each = steps(logits, target, compiled)
        for step in each.values():
            step()  # compiles
        once = {name: seconds(step, 3, device) for name, step in each.items()}
        repeats = {name: max(1, int(SECONDS_A_TURN / duration)) for name, duration in once.items()}
        rounds = [{name: seconds(step, repeats[name], device) for name, step in each.items()} for _ in range(ROUNDS)]
        torch_ = f"{median(round['torch'] for round in rounds) * 1e6:.0f} us"
        ratios = [f"{median(r[name] / r['torch'] for r in rounds):.2f}" for name in names if name != "torch"]
        shape = f"{batch} x {classes}"
        times.add_row(shape, torch_, *ratios)
        size = logits.numel() * logits.element_size()
        peaks = []
        for name in names:
            logits.grad = None
            gc.collect()
            peaks.append(f"{peak_bytes(each[name], device) / size:.1f}" if name != "copy" else "")
        memory.add_row(shape, *peaks[1:])
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    console = Console(width=150)
    times.title = f"Forward and backward in float32, time over F.cross_entropy's; {where}, PyTorch {torch.__version__}"
    memory.title = "Peak memory beyond the logits, in multiples of them"
    for table in (times, memory):
        console.print(table)


if __name__ == "__main__":
    main()
