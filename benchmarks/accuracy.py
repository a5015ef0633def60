"""Seconds of training to 99 % on MNIST with the loss from scratch: python -m benchmarks.accuracy [device=cuda]

For comparison: PyTorch's own example (mnist/main.py of pytorch/examples) takes 4 epochs and 279 s for 99.03 % on two
cores of such a machine. Seconds are those from the first event of a run to its last, evaluations included.
"""

import tempfile
from pathlib import Path
from statistics import mean, median

from benchmarks.measure import CONSOLE, device, run_seconds, table, train
from xent.match import load_runs

SEEDS = range(5)
EXAMPLE = 279
MODELS = {"cnn": (), "cnn, model.width=16": ("model.width=16",)}


def main() -> None:
    columns = "model", "epochs", "mean accuracy", "smallest", "seconds", f"{EXAMPLE} s over them"
    result = table(f"MNIST with loss=scratch, {len(SEEDS)} seeds", *columns, on=device())
    for name, overrides in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            swept = f"seed={','.join(map(str, SEEDS))}", f"hydra.sweep.dir={folder}", "~hydra.callbacks.compare"
            train("-m", "loss=scratch", *swept, *overrides)
            runs = load_runs([Path(folder)])
            seconds = median(run_seconds(run.folder) for run in runs)
        accuracies = [run.tests[run.step][1] for run in runs]
        found = f"{mean(accuracies):.2%}", f"{min(accuracies):.2%}", f"{seconds:.1f}", f"{EXAMPLE / seconds:.0f}"
        result.add_row(name, str(runs[0].settings["epochs"]), *found)
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
