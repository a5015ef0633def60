"""How small a mistake is seen, by precision, seeds and steps: python -m benchmarks.power [page=docs/verdict.md]

Trains the transformer of examples/ with label smoothing that ought not to be there, a mistake in the gradient of about
its size. Judges it over one seed and over four, by two nudges, after 16 steps and after 128. Two minutes on two cores;
the table is written into a page if one is given.
"""

from functools import partial
from itertools import product

import torch
from torch.nn.functional import cross_entropy

from benchmarks.measure import arguments, write_into
from benchmarks.others_losses import in_short
from examples.transformer import VARIANTS, from_logits, train
from xent.recording import Recorder
from xent.recording.trace import Trace
from xent.report.page import Rows, markdown_table
from xent.verdict.judging import judge
from xent.verdict.matching import pairs

ERRORS: dict[torch.dtype, tuple[float, ...]] = {
    torch.float64: (1e-15, 1e-14, 1e-13, 1e-12, 1e-10),
    torch.float32: (1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
    torch.bfloat16: (1e-3, 1e-2, 1e-1),
}
SEEDS, STEPS = (1, 4), (16, 128)
BEGIN = "<!-- python -m benchmarks.power page=docs/verdict.md -->"


def trained(error: float, dtype: torch.dtype, steps: int, seed: int, nudge: int = 0) -> Trace:
    """Train the transformer with so much label smoothing."""
    recorder = Recorder(steps=steps, settings={"variant": str(error), "seed": seed}, nudge=nudge)
    train(recorder, str(error), dtype)
    return recorder.trace


def power() -> Rows:
    """A row for every mistake: decades above the floor by steps and seeds."""
    columns = list(product(SEEDS, STEPS))
    rows = [["precision", "mistake", *(f"{steps} steps, {seeds} seed{'s'[: seeds > 1]}" for seeds, steps in columns)]]
    for dtype, errors in ERRORS.items():
        all_runs = list(product(STEPS, range(max(SEEDS))))
        references = [trained(0.0, dtype, *run, nudge) for run in all_runs for nudge in (0, 1, 2)]
        for error in errors:
            VARIANTS[str(error)] = from_logits(partial(cross_entropy, label_smoothing=error)), 0
            traces = references + [trained(error, dtype, *run) for run in all_runs]
            row = [str(dtype).removeprefix("torch."), f"{error:.0e}"]
            for seeds, steps in columns:
                runs = [trace for trace in traces if trace.settings["seed"] < seeds and trace.step == steps]
                (judgement,) = judge(pairs(runs, by="variant", reference="0.0"))
                row.append(in_short(judgement))
            print(*row, sep=" | ", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    (page,) = arguments(page="")
    VARIANTS["0.0"] = VARIANTS["torch"]
    write_into(page, BEGIN, f"\n{markdown_table(power())}\n")


if __name__ == "__main__":
    main()
