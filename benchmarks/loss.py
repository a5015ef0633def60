"""Time and memory of the losses, side by side: python -m benchmarks.loss [device=cuda] [compiled=true]

Forward and backward of each loss, as a ratio to `F.cross_entropy`, and of a plain copy of the logits as the floor. In
every round each runs in turn, so that what disturbs the machine disturbs all; the median of the rounds' ratios is
printed. Memory is the peak of what is allocated during a step, the gradient included, in multiples of the logits.
`compiled=true` adds each loss under `torch.compile`, for one or two minutes more.

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
from benchmarks.measure import CONSOLE, interleaved, measured_device, option, ratio, seconds, table, typical

SHAPES = [(64, 10), (128, 10), (1024, 10), (8192, 10), (1024, 1000), (8192, 1000), (256, 32_000), (64, 128_256)]
ROUNDS = 15
SECONDS_A_TURN = 0.02

Step = Callable[[], object]


def steps(logits: Tensor, target: Tensor, compiled: bool) -> dict[str, Step]:
    """Forward and backward of each loss, by name."""
    losses = {
        "torch": cross_entropy,
        "article": xent.ArticleCrossEntropyLoss(),
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


def main() -> None:
    device = measured_device()
    compiled = option("compiled", "false") == "true"
    names = list(steps(torch.zeros(1, 2), torch.zeros(1), compiled))
    others = [name for name in names if name != "torch"]
    times = table("Losses in float32, time over F.cross_entropy's", "batch x classes", "torch", *others, device=device)
    losses = [name for name in names if name != "copy"]
    memory = table("Peak memory beyond the logits, in multiples of them", "batch x classes", *losses, device=device)
    for batch, classes in SHAPES:
        logits = torch.randn(batch, classes, device=device, requires_grad=True)
        target = torch.randint(classes, (batch,), device=device)
        torch._dynamo.reset()
        each = steps(logits, target, compiled)
        for step in each.values():
            step()  # compiles
        repeats = {name: max(1, int(SECONDS_A_TURN / seconds(step, 3))) for name, step in each.items()}
        rounds = interleaved(each, ROUNDS, repeats)
        shape = f"{batch} x {classes}"
        ratios = [f"{ratio(rounds, name, 'torch'):.2f}" for name in others]
        times.add_row(shape, f"{typical(rounds, 'torch') * 1e6:.0f} us", *ratios)
        peaks = [f"{peak_in_logits(each[name], logits):.1f}" for name in losses]
        memory.add_row(shape, *peaks)
    for each_table in (times, memory):
        CONSOLE.print(each_table)


if __name__ == "__main__":
    main()
