"""Steps per second on one and two processes: python -m benchmarks.processes

The same batches of 128 images of MNIST, each process with its share and one thread. The floor is the same model under
DistributedDataParallel, on a share that does not change, with nothing of ours; over it, the steps as `train.py` makes
them. Communication is what the floor takes more than where the processes do not exchange their gradients.
"""

import json
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmarks.measure import CONSOLE, Work, interleaved, ratio, table, typical
from benchmarks.training import BATCH, MNIST, fit_an_epoch, model_and_optimizer, plain
from xent.recording.processes import process, processes
from xent.training.data import Split, batches
from xent.training.datasets import load
from xent.training.evaluation import PROBE
from xent.training.loop import across_processes
from xent.training.parts import slices

STEPS = {"mlp": 800, "cnn": 300, "resnet": 100}
ROUNDS = 3


def floor(name: str, train: Split, steps: int, exchange: bool) -> None:
    model, optimizer = model_and_optimizer(name, train)
    parallel = across_processes(model, train.labels.device)
    images, target = next(batches(train, BATCH, seed=0, steps=1))
    rows = slices(BATCH, processes())[process()]
    with parallel.no_sync() if not exchange and processes() > 1 else nullcontext():  # type: ignore[operator]
        plain(parallel, optimizer, repeat((images[rows], target[rows]), steps))


def measure(number: int, count: int, folder: str) -> None:
    """On one of so many processes; the first writes what it found."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{count}", rank=number, world_size=count)
    train, test = load(MNIST, torch.device("cpu"), torch.float32)
    probe = replace(test, images=test.images[:PROBE], labels=test.labels[:PROBE])
    found: dict[str, Any] = {}
    for name, steps in STEPS.items():
        works: dict[str, Work] = {
            "floor": partial(floor, name, train, steps, True),
            "apart": partial(floor, name, train, steps, False),
            "fit": partial(fit_an_epoch, name, train, probe, "torch", steps),
        }
        for work in works.values():
            work()
        rounds = interleaved(works, ROUNDS)
        parameters = sum(each.numel() for each in model_and_optimizer(name, train)[0].parameters())
        found[name] = {
            "floor": typical(rounds, "floor") / steps,
            "ours": ratio(rounds, "fit", "floor"),
            "communication": 1 - ratio(rounds, "apart", "floor"),
            "bytes": 4 * parameters,
        }
    if number == 0:
        Path(folder, f"{count}.json").write_text(json.dumps(found))
    distributed.barrier()


def main() -> None:
    columns = "model", "processes", "floor, steps/s", "ours over it", "communication", "gradient, KB"
    result = table("Several processes, one thread each", *columns, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2):
            torch.multiprocessing.spawn(measure, (count, folder), nprocs=count)
        for name in STEPS:
            for count in (1, 2):
                found = json.loads(Path(folder, f"{count}.json").read_text())[name]
                communication = f"{found['communication']:.0%}" if count > 1 else ""
                figures = (
                    f"{1 / found['floor']:.0f}",
                    f"{found['ours']:.2f}",
                    communication,
                    f"{found['bytes'] / 1e3:.0f}",
                )
                result.add_row(name, str(count), *figures)
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
