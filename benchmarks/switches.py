"""What each switch gains, and whether training stays the same: python -m benchmarks.switches [device=cuda]

A switch is judged as a loss is, by `python -m xent.compare --by SWITCH`: runs with it against runs without, over two
seeds, with two nudges as the floor; those that take long over fewer. Its time is that between the first and the last
logged step, over that of the run without it. `compile` starts from an empty cache; it pays back after so many steps.
"""

import re
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measure import CONSOLE, device, steps_seconds, table, train
from xent.match import load_runs, pairs
from xent.trace import Trace
from xent.verdict import judge

SWITCHES = [  # its name, off, on, and the runs that are trained with each
    ("channels_last", "False", "True", "model=cnn max_steps=40 precision=float32,float64 seed=0,1 nudge=0,1,2"),
    ("optimizer.fused", "False", "True", "model=mlp max_steps=120 precision=float32,float64 seed=0,1 nudge=0,1,2"),
    ("precision", "float32", "bfloat16", "model=cnn max_steps=40 seed=0,1 nudge=0,1"),
    ("machine.threads", "1", "2", "model=cnn max_steps=40 seed=0,1 nudge=0,1,2"),
    ("compile", "False", "True", "model=mlp max_steps=120 nudge=0,1"),
    ("compile", "False", "True", "model=resnet max_steps=40 nudge=0,1"),
]


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


def main() -> None:
    on = device()
    columns = "model", "precision", "time", "compiled in, pays back after", "verdict", "decades above floor", "nudged"
    result = table("Switches", "switch", "", *columns, on=on)
    for switch, before, after, runs in SWITCHES:
        if switch == "machine.threads" and on.type != "cpu":
            continue
        with tempfile.TemporaryDirectory() as folder:
            printed, traces = sweep(switch, (before, after), folder, runs)
            durations = {trace.folder: steps_seconds(trace.folder) for trace in traces}
        compiled = max(map(float, re.findall(r"compiled in (\S+) s", printed)), default=0)
        for verdict in judge(pairs(traces, switch, before)):
            references = [durations[pair.reference.folder] for pair in verdict.pairs]
            candidates = [durations[pair.candidate.folder] for pair in verdict.pairs]
            time = median(candidate / reference for candidate, reference in zip(candidates, references))
            step = median(references) / (traces[0].step - traces[0].settings["log_every"])
            pays = f"{compiled / step / (1 - time):,.0f} steps" if time < 1 else "never"
            cost = f"{compiled:.0f} s, {pays}" if compiled else ""
            excess, null = (f"{decades:+.2f}" for decades in (verdict.excess or 0, verdict.largest_null or 0))
            of = verdict.settings["model"], verdict.settings["precision"]
            result.add_row(switch, f"{before} to {after}", *of, f"{time:.2f}", cost, verdict.word, excess, null)
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
