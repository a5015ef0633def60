"""What `make cuda` asks, each a function of the device: it gives what it found, and raises where that is not right.

Trainings run in this process, with `overrides` last, by which tests make them short.
"""

import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from subprocess import PIPE

from xent.testing.same_training import SAME

PROJECT = Path(__file__).parents[1]

Part = Callable[..., str]


def tests(room: str, device: str) -> str:
    """Those of an accelerator in a room, in another process."""
    # cuBLAS looks once whether it is to repeat itself, and some tests multiply before any run is set up
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    options = [
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-q",
        "-rfE",
        "--tb=short",
        f"tests/{room}/test_accelerator.py",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=PROJECT, env=environment, stdout=PIPE, text=True
    )
    print(done.stdout)
    lines = [line for line in done.stdout.splitlines() if re.match(r"FAILED|ERROR|\d+ (passed|failed|error)", line)]
    found = "; ".join(lines[::-1][:4]) or f"pytest ended with {done.returncode}"
    assert done.returncode == 0, found
    return found


def train(*overrides: str) -> None:
    """`python train.py ...`, here."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    sys.argv = ["train.py", *overrides, f"data.root={PROJECT / 'data'}"]
    runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")


def compared(*overrides: str) -> str:
    """Train a sweep and say how its candidates are judged."""
    with tempfile.TemporaryDirectory() as folder:
        train("-m", *overrides, f"hydra.sweep.dir={folder}")
        text = (Path(folder) / "comparison" / "verdict.json").read_text()
    judged = json.loads(text)["candidates"]
    verdicts = Counter(each["verdict"] for each in judged.values())
    found = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    margins = [each["decades above floor"] for each in judged.values() if each["decades above floor"] is not None]
    if margins:
        found += f", at most {max(margins):+.2f} decades above the floor"
    assert set(verdicts) <= set(SAME), found
    return found


def as_on_the_cpu(model: str, device: str, *overrides: str) -> str:
    return compared("+experiment=device", f"model={model}", f"device=cpu,{device}", *overrides)


def proof(device: str, *overrides: str) -> str:
    return compared("+experiment=proof", f"device={device}", *overrides)


def compiled(device: str, *overrides: str) -> str:
    """By torch.compile, whose CUDA graphs are replayed."""
    by = "hydra.callbacks.compare.by=compile", "hydra.callbacks.compare.reference='False'"
    swept = "compile=False,True", "nudge=0,1,2", "max_steps=128", "model=mlp"
    return compared(*swept, f"device={device}", *by, *overrides)


def bfloat16(device: str, *overrides: str) -> str:
    swept = "loss=torch,scratch,fused", "nudge=0,1,2", "precision=bfloat16", "max_steps=128"
    return compared(*swept, f"device={device}", *overrides)


def resumed(device: str, *overrides: str) -> str:
    """An epoch on the device, and one more on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        run = "model=mlp", f"hydra.run.dir={folder}", *overrides
        train(*run, "epochs=1", f"device={device}")
        train(*run, "epochs=2", "device=cpu")
        from xent.recording import trace_file

        trace = trace_file.load(Path(folder))
    (before, _), (after, _) = trace.tests.values()
    assert after < before, trace.tests
    assert trace.settings["device"] == "cpu" and trace.settings["device_before"][0].startswith(device)
    return f"test loss {before:.4f} there, {after:.4f} here"


def accuracy(device: str) -> str:
    import hydra  # noqa: F401  which the processes that it starts need

    from benchmarks import accuracy

    _, accuracies, seconds, example = accuracy.measured()
    found = f"{mean(accuracies):.2%} in {seconds:.2f} s, 1/{example / seconds:.0f} of PyTorch's example"
    assert mean(accuracies) >= 0.989, found  # five seeds have 99.0 %, give or take 0.02 %
    return found


def epoch(device: str, rounds: int = 5, models: tuple[str, ...] = ("mlp", "cnn")) -> str:
    """As a multiple of the arithmetic of its steps alone, and with the other losses as one of that with PyTorch's."""
    from benchmarks import training
    from benchmarks.measure import ratio
    from xent.training.device import prepare

    found, variants = [], ("floor", *(f"fit, {loss}" for loss in training.LOSSES))
    for model in models:
        timed = training.measured(model, prepare(device), rounds, variants)
        of_losses = (f"{loss} {ratio(timed, f'fit, {loss}', 'fit, torch'):.2f}" for loss in ("scratch", "fused"))
        found.append(f"{model} {ratio(timed, 'fit, torch', 'floor'):.2f} ({', '.join(of_losses)})")
    return "; ".join(found)


def large_losses(device: str, rows: int = 8192, classes: int = 128256) -> str:
    """Time and peak memory over PyTorch's."""
    from benchmarks import large_loss
    from xent.training.device import prepare

    found = large_loss.all_measured(prepare(device), rows, classes)
    return f"{rows} x {classes}: " + "; ".join(
        f"{name} {f'{seconds * 1e3:.1f} ms' if time == 1 else f'{time:.2f}'}, memory {memory:.2f}"
        for name, (seconds, time, memory) in found.items()
    )


# What is asked, and the most seconds that it may take.
PARTS: dict[str, tuple[Part, int]] = {
    "the mlp as on the CPU": (partial(as_on_the_cpu, "mlp"), 60),
    "the cnn as on the CPU": (partial(as_on_the_cpu, "cnn"), 60),
    "tests of losses": (partial(tests, "losses"), 90),
    "tests of trainings": (partial(tests, "training"), 120),
    "the proof of all losses": (proof, 90),
    "large losses over PyTorch's": (large_losses, 90),
    "99 % of MNIST": (accuracy, 60),
    "an epoch over its arithmetic": (epoch, 60),
    "compiled as not compiled": (compiled, 60),
    "losses in bfloat16": (bfloat16, 30),
    "gone on with on the CPU": (resumed, 30),
}
