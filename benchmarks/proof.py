"""What the proof takes, and how it grows: python -m benchmarks.proof [device=cuda]

Seconds of the whole command that `make compare` runs, with other seeds, nudges and models.
"""

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import CONSOLE, measured_device, seconds, table, train
from xent.runs.traces import load_runs

SMALL = "loss=torch,scratch", "precision=float32"
PROOFS = {
    "as it is": (),
    "two losses in float32: one seed, one nudge": (*SMALL, "seed=0", "nudge=0,1"),
    "three seeds": (*SMALL, "nudge=0,1"),
    "three nudges": (*SMALL, "seed=0", "nudge=0,1,2,3"),
    "model=cnn": (*SMALL, "seed=0", "nudge=0,1", "model=cnn"),
}


def main() -> None:
    result = table(
        "python train.py -m +experiment=proof", "proof", "runs", "seconds", "seconds a run", device=measured_device()
    )
    for name, overrides in PROOFS.items():
        with tempfile.TemporaryDirectory() as folder:
            duration = seconds(partial(train, "-m", "+experiment=proof", *overrides, f"hydra.sweep.dir={folder}"))
            runs = len(load_runs([Path(folder)]))
        result.add_row(name, str(runs), f"{duration:.0f}", f"{duration / runs:.2f}")
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
