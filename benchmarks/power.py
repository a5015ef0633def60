"""How small a mistake is seen, by precision, seeds and steps: python -m benchmarks.power [page=docs/own-training.md]

Trains the transformer of examples/ with label smoothing that ought not to be there, a mistake in the gradient of about
its size. Judges it over one seed and over four, by two nudges, after 16 steps and after 128. Two minutes on two cores;
the table is written into a page if one is given.
"""

from functools import partial
from itertools import product

import torch
from torch.nn.functional import cross_entropy

from benchmarks.measure import option, write_into
from benchmarks.others_losses import in_short
from examples.transformer import VARIANTS, from_logits, train
from xent.recording import Recorder
from xent.recording.trace import Trace
from xent.verdict.judging import judge
from xent.verdict.matching import pairs
from xent.verdict.tables import Rows, markdown_table

ERRORS = {torch.float64: (1e-15, 1e-14, 1e-13, 1e-12, 1e-10), torch.float32: (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)}
SEEDS, STEPS = (1, 4), (16, 128)
BEGIN, END = "<!-- python -m benchmarks.power page=docs/own-training.md -->", "<!-- end -->"


def trained(error: float, dtype: torch.dtype, seed: int, nudge: int = 0) -> Trace:
    recorder = Recorder(steps=max(STEPS), settings={"variant": str(error), "seed": seed}, nudge=nudge)
    train(recorder, str(error), dtype)
    return recorder.trace


def after(steps: int, trace: Trace) -> Trace:
    """A run as it was after so many steps."""
    probes = {step: outputs for step, outputs in trace.probes.items() if step <= steps}
    return Trace(trace.settings, trace.losses[:steps], steps, probes, fingerprints=trace.fingerprints)


def power() -> Rows:
    rows = [
        [
            "precision",
            "mistake",
            *(f"{steps} steps, {seeds} seed{'s'[: seeds > 1]}" for seeds, steps in product(SEEDS, STEPS)),
        ]
    ]
    for dtype, errors in ERRORS.items():
        references = [trained(0.0, dtype, seed, nudge) for seed in range(max(SEEDS)) for nudge in (0, 1, 2)]
        for error in errors:
            traces = references + [trained(error, dtype, seed) for seed in range(max(SEEDS))]
            row = [str(dtype)[6:], f"{error:.0e}"]
            for seeds, steps in product(SEEDS, STEPS):
                cut = [after(steps, trace) for trace in traces if trace.settings["seed"] < seeds]
                (judgement,) = judge(pairs(cut, by="variant", reference="0.0"))
                row.append(in_short(judgement))
            print(*row, sep=" | ", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    for error in (0.0, *(error for errors in ERRORS.values() for error in errors)):
        VARIANTS[str(error)] = from_logits(partial(cross_entropy, label_smoothing=error)), 0
    text = f"\n{markdown_table(power())}\n"
    print(text)
    write_into(option("page", ""), BEGIN, text, END)


if __name__ == "__main__":
    main()
