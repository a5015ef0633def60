"""What each switch gains, and whether training stays the same: python -m benchmarks.switches [device=cuda]

A switch is judged as a loss is, by `python -m xent.compare --by SWITCH`: runs with it against runs without, over two
seeds, with two nudges as the floor; `compile`, which takes long, over one seed with one nudge. Its time is that between
the first and the last logged step, over that of the run without it. `compile` starts from an empty cache; it pays back
after so many steps.
"""

import re
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measure import CONSOLE, device, steps_seconds, table, train
from xent.match import load_runs, pairs
from xent.trace import Trace
from xent.verdict import judge

SWITCHES = [  # its name, off, on, model, steps, precisions
    ("channels_last", "False", "True", "cnn", 40, ("float32", "float64")),
    ("optimizer.fused", "False", "True", "mlp", 120, ("float32", "float64")),
    ("precision", "float32", "bfloat16", "cnn", 40, ("",)),
    ("machine.threads", "1", "2", "cnn", 40, ("float32",)),
    ("compile", "False", "True", "mlp", 120, ("float32",)),
    ("compile", "False", "True", "resnet", 40, ("float32",)),
]


def sweep(switch: str, values: tuple[str, str], folder: str, *overrides: str) -> tuple[str, list[Trace]]:
    """What the runs print that take these values of a switch in turn, and their traces."""
    overrides = ("-m", "~hydra.callbacks.compare", *overrides)
    if switch == "machine.threads":
        folders = [f"{folder}/{value}" for value in values]
        for value, each in zip(values, folders):
            train(*overrides, f"hydra.sweep.dir={each}", OMP_NUM_THREADS=value)
        return "", load_runs(map(Path, folders))
    overrides += f"{switch}={','.join(values)}", f"hydra.sweep.dir={folder}"
    return train(*overrides, TORCHINDUCTOR_CACHE_DIR=f"{folder}/cache"), load_runs([Path(folder)])


def main() -> None:
    on = device()
    columns = "model", "precision", "time", "compiled in, pays back after", "verdict", "decades above floor", "nudged"
    result = table("Switches", "switch", "", *columns, on=on)
    for switch, before, after, model, steps, precisions in SWITCHES:
        if switch == "machine.threads" and on.type != "cpu":
            continue
        for precision in precisions:
            with tempfile.TemporaryDirectory() as folder:
                repeated = ("seed=0", "nudge=0,1") if switch == "compile" else ("seed=0,1", "nudge=0,1,2")
                settings = [f"precision={precision}"] if precision else []
                overrides = [f"model={model}", f"max_steps={steps}", *repeated, *settings]
                printed, runs = sweep(switch, (before, after), folder, *overrides)
                found = pairs(runs, switch, before)
                times = [steps_seconds(p.candidate.folder) / steps_seconds(p.reference.folder) for p in found]
                step = median(steps_seconds(p.reference.folder) for p in found) / (steps - 20)
            (verdict,) = judge(found)
            excess, null = (f"{decades:+.2f}" for decades in (verdict.excess or 0, verdict.largest_null or 0))
            compiled = max(map(float, re.findall(r"compiled in (\S+) s", printed)), default=0)
            pays = f"{compiled / step / (1 - median(times)):,.0f} steps" if median(times) < 1 else "never"
            cost = f"{compiled:.0f} s, {pays}" if compiled else ""
            judged = verdict.word, excess, null
            result.add_row(switch, f"{before} to {after}", model, precision, f"{median(times):.2f}", cost, *judged)
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
