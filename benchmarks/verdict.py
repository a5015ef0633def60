"""How good a judge the verdict is: python -m benchmarks.verdict [models=mlp] [seeds=3] [folder=FOLDER] [page=FILE]

Trains mlp, cnn and a narrow resnet on MNIST, in float32 and float64 with many seeds (an hour on two cores), and
judges by two nudges, as the commands of the README do. Traces are kept in a folder if one is given, and used again; the
tables are written into a page, docs/verdict.md.

- false alarms: correct runs that are called different. The reference itself, nudged; and the correct changes of
  benchmarks/changes.py. Over one seed and over three, every run in one comparison;
- misses: the impostors, and gradients that are off by a factor 1 + error;
- programs as others write them, each with correct changes and mistakes: as functions in float64, and as written;
- mistakes that are made late, in float32 over one seed;
- losses as others write them, right and wrong, in the precisions that they compute in.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from unittest.mock import patch

import torch

from benchmarks.changes import CORRECT, GRADIENTS, IGNORED, IMPOSTORS, INSTRUCTIONS, MODELS, NOT_FOR, Settings, trained
from benchmarks.measure import arguments, as_markdown, write_into
from benchmarks.others_losses import in_short
from benchmarks.programs import LATE, LATE_KINDS, PROGRAMS, STEPS_OF_LATE, UNDER_AUTOCAST, late_mistake
from benchmarks.programs import STEPS as STEPS_OF_PROGRAMS
from xent.recording.trace import FILE, Trace, load, save
from xent.report.page import Rows
from xent.testing.same_training import judge_training
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import pairs

SEEDS = {"mlp": 72, "cnn": 24, "resnet": 12}
FIRST = 3  # seeds that single changes are shown over; compiled runs and scaled gradients have no more
STEPS = {"mlp": 64, "cnn": 32, "resnet": 32}
STEPS_OF_IMPOSTORS = STEPS | {"resnet": 128}  # some bite only when it has become sure of a class
NULLS = range(1, 7)  # nudges that take their turn as the candidate
PRECISIONS = ("float32", "float64")
OTHER_INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}
WRONG = {Verdict.DIFFERENT, Verdict.OTHER_VALUES}
BEGIN = "<!-- python -m benchmarks.verdict page=docs/verdict.md -->"


def all_settings(model: str, seeds: int) -> Iterator[Settings]:
    """The settings of all runs of a model."""
    for precision, seed in product(PRECISIONS, range(seeds)):
        run: Settings = {"model": model, "precision": precision, "seed": seed, "nudge": 0, "change": "none"}
        run |= {"steps": STEPS[model], "ignore_index": -100}
        yield from (run | {"nudge": nudge} for nudge in (0, *NULLS))
        changes = [name for name in CORRECT if name not in NOT_FOR[model] and (name != "compile" or seed < FIRST)]
        if precision == "float64" and seed < FIRST:
            changes += GRADIENTS
        yield from (run | {"change": change} for change in changes)
        if seed == 0:
            run |= {"steps": STEPS_OF_IMPOSTORS[model], "ignore_index": IGNORED}
            yield from (run | {"nudge": nudge} for nudge in (0, 1, 2))
            yield from (run | {"change": change} for change in IMPOSTORS)


def write_run(settings: Settings, folder: Path) -> None:
    """Train, unless the folder holds the trace already."""
    if not (folder / FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        save(trained(settings), folder)


def all_runs(runs: list[Settings], folder: Path) -> list[Trace]:
    """Train on all cores, and load the traces."""
    folders = [folder / ",".join(map(str, settings.values())) for settings in runs]
    for other in (False, True):  # instructions, which a process has from its start
        chosen = [i for i, settings in enumerate(runs) if (settings["change"] == INSTRUCTIONS) is other]
        environment = {"OMP_NUM_THREADS": "1"} | (OTHER_INSTRUCTIONS if other else {})
        with patch.dict(os.environ, environment), ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            list(pool.map(write_run, [runs[i] for i in chosen], [folders[i] for i in chosen]))
    return [load(folder) for folder in folders]


def having(traces: list[Trace], **settings: str | int) -> list[Trace]:
    return [trace for trace in traces if settings.items() <= trace.settings.items()]


def references(traces: list[Trace], nudges: tuple[int, ...] = (0, 1, 2)) -> list[Trace]:
    """The reference runs of these nudges."""
    return [trace for nudge in nudges for trace in having(traces, change="none", nudge=nudge)]


def judged(candidates: list[Trace], floor: list[Trace]) -> list[Judgement]:
    """Judge every change, over all seeds and both precisions of the runs."""
    return judge(pairs([*floor, *candidates], by="change", reference="none"))


def as_candidate(trace: Trace) -> Trace:
    """A nudged reference run under the name of a change."""
    return Trace(trace.settings | {"nudge": 0, "change": "a nudge"}, trace.losses, trace.step, trace.probes)


def comparisons(traces: list[Trace], seeds: int) -> dict[str, list[Judgement]]:
    """Judge the correct runs of one model, over so many seeds at a time."""
    nudges, changes = [], []
    numbers = sorted({trace.settings["seed"] for trace in traces})
    for chosen in zip(*[iter(numbers)] * seeds):
        runs = [trace for trace in traces if trace.settings["seed"] in chosen]
        for nudge in NULLS:
            two_others = [other for other in (*NULLS, *NULLS) if other != nudge][nudge - 1 : nudge + 1]
            candidates = [as_candidate(trace) for trace in references(runs, (nudge,))]
            nudges += judged(candidates, references(runs, (0, *two_others)))
        for change in CORRECT:
            changed = having(runs, change=change)
            if len({trace.settings["seed"] for trace in changed}) == seeds:
                changes += judged(changed, references(runs))
    return {"a nudge of the reference": nudges, "a correct change": changes}


def wilson_interval(wrong: int, count: int) -> str:
    """Wilson's 95 % interval of a rate."""
    z = NormalDist().inv_cdf(0.975)
    middle, width = wrong + z * z / 2, z * sqrt(wrong * (count - wrong) / count + z * z / 4)
    return " to ".join(f"{bound / (count + z * z):.1%}" for bound in (middle - width, middle + width))


def false_alarms(by_model: dict[str, list[Trace]], seeds: int) -> Rows:
    """A row for the nudged references and one for the correct changes, over so many seeds at a time."""
    rows = []
    by_kind = [comparisons(traces, seeds) for traces in by_model.values()]
    for kind in by_kind[0]:
        verdicts = [judgement.verdict for judgements in by_kind for judgement in judgements[kind]]
        identical, coarser = verdicts.count(Verdict.IDENTICAL), verdicts.count(Verdict.COARSER)
        wrong, count = sum(verdict in WRONG for verdict in verdicts), len(verdicts) - identical
        interval = wilson_interval(wrong, count) if count else ""
        rows.append([kind, str(seeds), str(count), str(wrong), interval, str(coarser), str(identical)])
    return rows


def decades(by_model: dict[str, list[Trace]], changes: Iterable[str], precisions: tuple[str, ...]) -> Rows:
    """A row for every change: how far above the floor it is, over the first seeds."""
    cells = {}
    for model, traces in by_model.items():
        first = [t for t in traces if t.settings["seed"] < FIRST and t.settings["precision"] in precisions]
        changed = [trace for trace in first if trace.settings["change"] in changes]
        for judgement in judged(changed, references(first)):
            cells[model, judgement.settings["precision"], judgement.settings["change"]] = in_short(judgement)
    columns = list(product(by_model, precisions))
    rows = [["change", *(f"{model}, {precision}" for model, precision in columns)]]
    return rows + [[change, *(cells.get((*column, change), "") for column in columns)] for change in changes]


def misses(traces: list[Trace]) -> Rows:
    """How many impostors are caught, and which are not."""
    rows = [["model", "precision", "impostors caught", "missed"]]
    settings = {(trace.settings["model"], trace.settings["precision"]): None for trace in traces}
    for model, precision in settings:
        runs = having(traces, model=model, precision=precision)
        judgements = judged([trace for trace in runs if trace.settings["change"] in IMPOSTORS], references(runs))
        missed = [judgement.settings["change"] for judgement in judgements if judgement.verdict not in WRONG]
        caught = f"{len(judgements) - len(missed)} of {len(judgements)}"
        rows.append([model, precision, caught, ", ".join(missed)])
    return rows


def judged_program(name: str, change: str, precision: str) -> Verdict:
    """The verdict on a change of a program: as a function in float64, or as written in float32 or under autocast."""
    torch.set_num_threads(1)
    train = PROGRAMS[name].train
    settings, dtype = {"precision": precision}, torch.float64 if precision == "float64" else None
    ours, theirs = (lambda recorder, name=name: train(recorder, name) for name in (change, ""))
    return judge_training(ours, theirs, STEPS_OF_PROGRAMS, settings=settings, dtype=dtype).verdict


def programs() -> Rows:
    """A row for each precision: how many correct changes pass, how many mistakes are caught, and which are not."""
    rows = [["precision", "correct changes that pass", "called different", "mistakes caught", "missed"]]
    for precision in ("float64", "float32", "bfloat16"):
        names = [
            name for name in PROGRAMS if precision == "float64" or (name in UNDER_AUTOCAST) == (precision == "bfloat16")
        ]
        counts = []
        for kind, expected in (("correct", False), ("wrong", True)):
            runs = [(name, change, precision) for name in names for change in getattr(PROGRAMS[name], kind)]
            with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
                verdicts = list(pool.map(judged_program, *([run[i] for run in runs] for i in range(3))))
            failed = [run[:2] for run, verdict in zip(runs, verdicts) if (verdict in WRONG) is not expected]
            by_program = (f"{name}: {', '.join(c for n, c in failed if n == name)}" for name in dict(failed))
            which = f" ({'; '.join(by_program)})" if failed else ""
            counts += [str(len(runs) - len(failed)), f"{len(failed)}{which}"]
        rows.append([precision, *counts])
    return rows


def judged_late(change: str, kind: str) -> str:
    """The verdict on a late mistake, and how many times the floor the gap is at the end."""
    torch.set_num_threads(1)
    ours, theirs = (partial(late_mistake, kind, change=name) for name in (change, ""))
    judgement = judge_training(ours, theirs, STEPS_OF_LATE, seeds=1, nudges=2)
    gap, floor = (values[STEPS_OF_LATE] for values in (judgement.outputs.gap, judgement.outputs.floor))
    return f"{judgement.verdict}, {gap / floor:.0e}"


def late() -> Rows:
    """A row for each late mistake: its verdict for each network."""
    runs = list(product(LATE, LATE_KINDS))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        cells = dict(zip(runs, pool.map(judged_late, *zip(*runs))))
    return [["mistake", *LATE_KINDS], *([change, *(cells[change, kind] for kind in LATE_KINDS)] for change in LATE)]


def tables(folder: Path, seeds: dict[str, int]) -> dict[str, Rows]:
    """Train so many seeds of every model into a folder, and judge; tables by their titles."""
    runs = [settings for model, count in seeds.items() for settings in all_settings(model, count)]
    traces = all_runs(runs[::-1], folder)[::-1]  # those that take longest first
    by_model = {model: having(traces, model=model, ignore_index=-100) for model in seeds}
    header = ["correct runs", "seeds", "comparisons", "wrong", "95 % interval", "coarser", "identical"]
    return {
        "Correct runs called wrong": [header, *false_alarms(by_model, 1), *false_alarms(by_model, FIRST)],
        "Correct changes, over three seeds": decades(by_model, CORRECT, PRECISIONS),
        "Impostors, over one seed": misses(having(traces, ignore_index=IGNORED)),
        "Gradients times a factor, over three seeds": decades(by_model, GRADIENTS, ("float64",)),
    }


def main() -> None:
    models, seeds, kept, page = arguments(models=",".join(MODELS), seeds=str(max(SEEDS.values())), folder="", page="")
    with tempfile.TemporaryDirectory() as temporary:
        counts = {model: min(SEEDS[model], int(seeds)) for model in models.split(",")}
        sections = tables(Path(kept or temporary), counts)
    sections |= {"Programs as others write them": programs(), "Late mistakes, in float32 over one seed": late()}
    text = "\n".join(as_markdown(title, rows) for title, rows in sections.items())
    print(text)
    write_into(page, BEGIN, text)


if __name__ == "__main__":
    main()
