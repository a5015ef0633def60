"""How long the proof takes, and how that grows: python -m benchmarks.proof [device=cuda]

Seconds of the whole command that `make compare` runs, and of smaller proofs with other seeds, nudges and models.
"""

import tempfile
import time

from benchmarks.measure import CONSOLE, arguments, deterministic, sweep, table

SMALL = "loss=torch,scratch", "precision=float32"
PROOFS: dict[str, tuple[str, ...]] = {
    "all of it": (),
    "two losses in float32, one seed, one nudge": (*SMALL, "seed=0", "nudge=0,1"),
    "... three seeds": (*SMALL, "nudge=0,1"),
    "... three nudges": (*SMALL, "seed=0", "nudge=0,1,2,3"),
    "... model=cnn": (*SMALL, "seed=0", "nudge=0,1", "model=cnn"),
}


def main() -> None:
    (device_name,) = arguments(device="cpu")
    device = deterministic(device_name)
    command = "python train.py -m +experiment=proof"
    result = table(command, "proof", "runs", "seconds", "seconds a run", device=device)
    for name, overrides in PROOFS.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            runs = len(sweep(folder, "+experiment=proof", f"device={device}", *overrides))
            seconds = time.perf_counter() - start
        result.add_row(name, str(runs), f"{seconds:.0f}", f"{seconds / runs:.2f}")
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
