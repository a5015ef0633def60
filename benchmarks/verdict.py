"""How often the verdict is wrong: python -m benchmarks.verdict [FOLDER]

Trains PyTorch's loss with many seeds and nudges, mlp and cnn, float32 and float64 (up to twenty minutes on two cores),
into FOLDER if one is given; runs that are there are not trained again. Then

- false alarms: each nudged run takes its turn as the candidate, judged against the other nudges, over one seed and over
  three. It is a correct run, so `different` is wrong;
- the smallest fault: the gradient is scaled by 1 + error, on the task of `xent.testing.assert_same_learning`.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from xent.losses.impostors import gradient_scaled
from xent.runs.traces import load_runs
from xent.testing import judge_learning
from xent.training.trace import Trace
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import Pair

SEEDS = range(12)
NUDGES = range(6)
STEPS = {"mlp": 128, "cnn": 64}
PRECISIONS = ("float32", "float64")
PROJECT = Path(__file__).parents[1]


def train(folder: Path) -> dict[tuple[str, str], dict[int, list[Trace]]]:
    """The runs of each model and precision by their seed, one of each nudge."""
    swept = {"precision": PRECISIONS, "seed": SEEDS, "nudge": NUDGES}
    for model, steps in STEPS.items():
        sweep = folder / model
        if not sweep.exists():
            overrides = [f"model={model}", f"max_steps={steps}", f"hydra.sweep.dir={sweep}"]
            overrides += [f"{key}={','.join(map(str, values))}" for key, values in swept.items()]
            command = [sys.executable, "train.py", "-m", *overrides, "~hydra.callbacks.compare"]
            subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    runs: dict[tuple[str, str], dict[int, list[Trace]]] = {}
    for trace in load_runs([folder / model for model in STEPS]):
        of = trace.settings
        runs.setdefault((of["model"], of["precision"]), {}).setdefault(of["seed"], []).append(trace)
    return runs


def false_alarms(by_seed: dict[int, list[Trace]], seeds: int) -> list[Judgement]:
    """The verdicts on every nudged run, over so many seeds at a time."""
    judgements = []
    for chosen in zip(*[iter(by_seed)] * seeds):
        for nudge in NUDGES[1:]:
            pairs = []
            for seed in chosen:
                runs = {trace.settings["nudge"]: trace for trace in by_seed[seed]}
                candidate = runs.pop(nudge)
                unnudged, *nudged = (runs[n] for n in sorted(runs))
                pairs.append(Pair(candidate, unnudged, unnudged, nudged))
            judgements += judge(pairs)
    return judgements


def main() -> None:
    table = Table("model", "precision", "seeds", "null comparisons", "called different", "largest margin, decades")
    with tempfile.TemporaryDirectory() as temporary:
        runs = train(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
    for (model, precision), by_seed in runs.items():
        for seeds in (1, 3):
            judgements = false_alarms(by_seed, seeds)
            wrong = sum(judgement.verdict is Verdict.DIFFERENT for judgement in judgements)
            largest = max(judgement.margin or 0 for judgement in judgements)
            table.add_row(model, precision, str(seeds), str(len(judgements)), str(wrong), f"{largest:+.2f}")
    faults = Table("gradient scaled by 1 +", "verdict", "decades above the floor")
    for power in range(-9, -17, -1):
        loss = partial(gradient_scaled, by=10.0**power)
        judgement = judge_learning(loss, nn.CrossEntropyLoss(), classes=10, ignored=0)
        faults.add_row(f"1e{power}", judgement.verdict, f"{judgement.margin:+.2f}")
    for each in (table, faults):
        Console(width=120).print(each)


if __name__ == "__main__":
    main()
