"""What each switch gains, and whether training stays the same: python -m benchmarks.switches [device=cuda]

A switch is judged as a loss is, by `python -m xent.compare --by SWITCH`: runs with it against runs without, over two
seeds, with two nudges as the floor; those that take long over fewer. Its time is that between the first and the last
logged step, over that of the run without it.

`compile` starts from an empty cache and gains so little that runs one after the other do not show it: its time is that
of steps on one batch, by turns with and without, which say after how many it pays back.
"""

import os
import re
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import nn

from benchmarks.measure import CONSOLE, interleaved, measured_device, ratio, steps_seconds, table, train, typical
from benchmarks.training import BATCH, MNIST, model_and_optimizer, plain
from xent.recording.trace import Trace
from xent.runs.traces import load_runs
from xent.training.compilation import compile_ahead
from xent.training.data import batches
from xent.training.datasets import load
from xent.verdict.judging import judge
from xent.verdict.matching import pairs

SWITCHES = [  # its name, off, on, and the runs that are trained with each
    ("channels_last", "False", "True", "model=cnn max_steps=40 precision=float32,float64 seed=0,1 nudge=0,1,2"),
    ("optimizer.fused", "False", "True", "model=mlp max_steps=120 precision=float32,float64 seed=0,1 nudge=0,1,2"),
    ("precision", "float32", "bfloat16", "model=cnn max_steps=40 seed=0,1 nudge=0,1"),
    ("machine.threads", "1", "2", "model=cnn max_steps=40 precision=float32,float64 seed=0,1 nudge=0,1,2"),
    ("compile", "False", "True", "model=mlp max_steps=120 nudge=0,1"),
    ("compile", "False", "True", "model=resnet max_steps=40 nudge=0,1"),
]
ROUNDS = 40  # of steps by turns


def sweep(switch: str, values: tuple[str, str], folder: str, runs: str) -> tuple[str, list[Trace]]:
    """What the runs print that take these values of a switch in turn, and their traces."""
    overrides = ["-m", "~hydra.callbacks.compare", *runs.split()]
    if switch == "machine.threads":
        folders = [f"{folder}/{value}" for value in values]
        for value, each in zip(values, folders):
            train(*overrides, f"hydra.sweep.dir={each}", OMP_NUM_THREADS=value)
        return "", load_runs(map(Path, folders))
    overrides += f"{switch}={','.join(values)}", f"hydra.sweep.dir={folder}"
    return train(*overrides, TORCHINDUCTOR_CACHE_DIR=f"{folder}/cache"), load_runs([Path(folder)])


def compiled_step(model: str, printed: str, cache: str) -> tuple[float, str]:
    """A compiled step's time over one that is not, and what the runs paid for it, by what they printed."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # where the runs left what they compiled
    split, _ = load(MNIST, measured_device(), torch.float32)
    batch = next(batches(split, BATCH, seed=0, steps=1))
    variants = {}
    for variant in ("eager", "compiled"):
        network, optimizer = model_and_optimizer(model, split)
        loss = nn.CrossEntropyLoss()
        if variant == "compiled":
            compile_ahead(network, loss, *batch, autocast=False)
        variants[variant] = partial(plain, network, optimizer, [batch], loss)
    interleaved(variants, 5)  # warms up
    rounds = interleaved(variants, ROUNDS)
    time = ratio(rounds, "compiled", "eager")
    cost = max(map(float, re.findall(r"compiled in (\S+) s", printed)))
    pays = f"{cost / typical(rounds, 'eager') / (1 - time):,.0f} steps" if time < 1 else "never"
    return time, f"{cost:.0f} s, {pays}"


def main() -> None:
    device = measured_device()
    columns = "model", "precision", "time", "compiled in, pays back after", "verdict", "decades above floor", "nudged"
    result = table("Switches", "switch", "", *columns, device=device)
    for switch, before, after, runs in SWITCHES:
        if switch == "machine.threads" and device.type != "cpu":
            continue
        with tempfile.TemporaryDirectory() as folder:
            printed, traces = sweep(switch, (before, after), folder, runs)
            seconds = {trace.folder: steps_seconds(trace.folder) for trace in traces}
            for judgement in judge(pairs(traces, switch, before)):
                model, precision = (judgement.settings[key] for key in ("model", "precision"))
                if switch == "compile":
                    time, cost = compiled_step(model, printed, f"{folder}/cache")
                else:
                    ratios = (seconds[p.candidate.folder] / seconds[p.reference.folder] for p in judgement.pairs)
                    time, cost = median(ratios), ""
                decades = (f"{found or 0:+.2f}" for found in (judgement.outputs.margin, judgement.outputs.noise))
                row = f"{before} to {after}", model, precision, f"{time:.2f}", cost, judgement.verdict, *decades
                result.add_row(switch, *row)
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
