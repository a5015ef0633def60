"""How good a judge the verdict is: python -m benchmarks.verdict [folder=FOLDER] [page=docs/verdict.md]

Trains mlp, cnn and a narrow resnet on MNIST, in float32 and float64 with many seeds (twenty minutes on two cores), and
judges by two nudges, as the commands of the README do. Traces are kept in a folder if one is given, and used again;
the tables are written into a page if one is given.

- false alarms: correct runs that are called different. The reference itself, nudged; and the correct changes of
  benchmarks/changes.py. Over one seed and over three, each run in one comparison, with Wilson's 95 % interval;
- misses: the impostors, and gradients that are off by a factor 1 + error;
- losses as others write them, right and wrong, in the precisions that they compute in.
"""

import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import nn

from benchmarks.changes import CHANGES, INSTRUCTIONS, MODELS, NOT_FOR, OTHER_INSTRUCTIONS, trained
from benchmarks.measure import option, write_into
from benchmarks.others_losses import in_short, others_losses
from xent.losses.impostors import MISTAKES, Impostor, gradient_scaled
from xent.recording.trace import Trace
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import pairs
from xent.verdict.tables import Rows, as_markdown

SEEDS = {"mlp": 72, "cnn": 24, "resnet": 12}
COMPILED = 3  # seeds: compiling takes long
NULLS = range(1, 7)  # nudges that take their turn as the candidate
PRECISIONS = ("float32", "float64")
LONGER = 128  # steps of the resnet with impostors, of which some bite only when it has become sure of a class
ERRORS = [10.0**-power for power in range(10, 16)]
WRONG = {Verdict.DIFFERENT, Verdict.OTHER_VALUES}
BEGIN, END = "<!-- python -m benchmarks.verdict page=docs/verdict.md -->", "<!-- end -->"

Job = tuple[str, str, int, str]  # model, precision, seed, what is trained


def runs(job: Job) -> list[Trace]:
    """The traces of a job, one after the other on one thread."""
    model, precision, seed, what = job
    torch.set_num_threads(1)
    settings = {"model": model, "precision": precision, "seed": seed, "nudge": 0, "change": what}
    reference = nn.CrossEntropyLoss()
    if what in CHANGES:
        return [trained(settings, reference)]
    if what == "changes":
        changes = [name for name in CHANGES if name not in (*NOT_FOR[model], INSTRUCTIONS, "compile")]
        nudged = [settings | {"nudge": nudge, "change": "none"} for nudge in (0, *NULLS)]
        return [trained(each, reference) for each in [*nudged, *(settings | {"change": name} for name in changes)]]
    if what == "gradients":
        scaled = {scaled_by(error): partial(gradient_scaled, by=error) for error in ERRORS}
        return [trained(settings | {"change": name}, loss) for name, loss in scaled.items()]
    settings |= {"steps": LONGER} if model == "resnet" else {}
    ignoring = [settings | {"nudge": nudge, "change": "none"} for nudge in (0, 1, 2)]
    traces = [trained(each, nn.CrossEntropyLoss(ignore_index=9)) for each in ignoring]
    return traces + [trained(settings | {"change": name}, Impostor(name, ignore_index=9)) for name in MISTAKES]


def write_runs(job: Job, file: Path) -> None:
    kept = ("settings", "losses", "step", "probes", "tests")
    torch.save([{name: getattr(trace, name) for name in kept} for trace in runs(job)], file)


def all_runs(jobs: Iterable[Job], folder: Path, **environment: str) -> dict[Job, list[Trace]]:
    """The traces of every job, by processes on all cores with some environment, but for those that the folder holds."""
    files = {job: folder / f"{'-'.join(map(str, job))}.pt" for job in jobs}
    before = dict(os.environ)
    os.environ.update(environment, OMP_NUM_THREADS="1")  # which a process has from its start
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        waiting = [pool.submit(write_runs, job, file) for job, file in files.items() if not file.exists()]
        for each in waiting:
            each.result()
    os.environ.clear()
    os.environ.update(before)
    return {job: [Trace(**each) for each in torch.load(file, weights_only=True)] for job, file in files.items()}


def scaled_by(error: float) -> str:
    return f"1 + {error:.0e}"


def judged(candidates: list[Trace], references: list[Trace]) -> list[Judgement]:
    """Judgements by the change, over all seeds and both precisions that are given."""
    return judge(pairs([*references, *candidates], by="change", reference="none"))


def as_candidate(trace: Trace) -> Trace:
    """A nudged reference run under the name of a change."""
    return Trace(trace.settings | {"nudge": 0, "change": "a nudge"}, trace.losses, trace.step, trace.probes)


def comparisons(traces: list[Trace], seeds: int) -> dict[str, list[Judgement]]:
    """The judgements of correct runs of one model, over so many seeds at a time."""
    found: dict[str, list[Judgement]] = {"a nudge of the reference": [], "a correct change": []}
    numbers = sorted({trace.settings["seed"] for trace in traces})
    for chosen in zip(*[iter(numbers)] * seeds):
        here = [trace for trace in traces if trace.settings["seed"] in chosen]
        of_nudge = {
            n: [t for t in here if (t.settings["change"], t.settings["nudge"]) == ("none", n)] for n in (0, *NULLS)
        }
        for nudge in NULLS:
            others = [n for n in (*NULLS, *NULLS) if n != nudge][nudge - 1 : nudge + 1]
            floor = [trace for n in (0, *others) for trace in of_nudge[n]]
            found["a nudge of the reference"] += judged([as_candidate(trace) for trace in of_nudge[nudge]], floor)
        for change in CHANGES:
            changed = [trace for trace in here if trace.settings["change"] == change]
            if len({trace.settings["seed"] for trace in changed}) == seeds:
                found["a correct change"] += judged(changed, [trace for n in (0, 1, 2) for trace in of_nudge[n]])
    return found


def false_alarms(by_model: dict[str, list[Trace]]) -> Rows:
    rows = [
        [
            "correct runs",
            "seeds",
            "comparisons",
            "wrong",
            "95 % interval",
            "coarser",
            "identical",
            "wrong by one precision",
        ]
    ]
    for seeds in (1, 3):
        by_kind = [comparisons(traces, seeds) for traces in by_model.values()]
        for kind in by_kind[0]:
            found = [judgement for each in by_kind for judgement in each[kind]]
            differing = [each for each in found if each.verdict is not Verdict.IDENTICAL]
            wrong = sum(each.verdict in WRONG for each in differing)
            coarser = sum(each.verdict is Verdict.COARSER for each in differing)
            alone = sum(replace(each, other_precision=None).verdict in WRONG for each in differing)
            interval = binomtest(wrong, len(differing)).proportion_ci(method="wilson")
            rate = f"{interval.low:.1%} to {interval.high:.1%}"
            counts = str(coarser), str(len(found) - len(differing)), str(alone)
            rows.append([kind, str(seeds), str(len(differing)), str(wrong), rate, *counts])
    return rows


def changes(by_model: dict[str, list[Trace]]) -> Rows:
    """Each correct change over the first three seeds."""
    found = {}
    for model, traces in by_model.items():
        first = [trace for trace in traces if trace.settings["seed"] < 3]
        references = [t for t in first if t.settings["change"] == "none" and t.settings["nudge"] <= 2]
        for each in judged([trace for trace in first if trace.settings["change"] != "none"], references):
            found[model, each.settings["precision"], each.settings["change"]] = in_short(each)
    places = list(product(MODELS, PRECISIONS))
    rows = [["correct change", *(f"{model}, {precision}" for model, precision in places)]]
    return rows + [[change, *(found.get((*place, change), "") for place in places)] for change in CHANGES]


def misses(impostors: dict[Job, list[Trace]]) -> Rows:
    rows = [["model", "precision", "impostors caught", "missed"]]
    for model, precision in product(MODELS, PRECISIONS):
        found = judge(pairs(impostors[model, precision, 0, "impostors"], by="change", reference="none"))
        missed = [each.settings["change"] for each in found if each.verdict not in WRONG]
        rows.append([model, precision, f"{len(found) - len(missed)} of {len(found)}", ", ".join(missed)])
    return rows


def smallest_errors(gradients: dict[Job, list[Trace]], by_model: dict[str, list[Trace]]) -> Rows:
    names = [scaled_by(error) for error in ERRORS]
    rows = [["gradient times", *names]]
    for model, traces in by_model.items():
        plain = [t for t in traces if (t.settings["change"], t.settings["precision"]) == ("none", "float64")]
        references = [t for t in plain if t.settings["seed"] < 3 and t.settings["nudge"] <= 2]
        scaled = [trace for seed in range(3) for trace in gradients[model, "float64", seed, "gradients"]]
        by_change = {each.settings["change"]: each for each in judged(scaled, references)}
        rows.append([model, *(in_short(by_change[name]) for name in names)])
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(option("folder", temporary))
        folder.mkdir(parents=True, exist_ok=True)
        places = list(product(reversed(MODELS), reversed(PRECISIONS)))  # those that take longest first
        every = [(model, precision, seed, "changes") for model, precision in places for seed in range(SEEDS[model])]
        compiled = [(*place, seed, "compile") for place in places for seed in range(COMPILED)]
        gradients = all_runs([(model, "float64", seed, "gradients") for model in MODELS for seed in range(3)], folder)
        impostors = all_runs([(*place, 0, "impostors") for place in places], folder)
        correct = all_runs([*every, *compiled], folder)
        correct |= all_runs([(*job[:3], INSTRUCTIONS) for job in every], folder, **OTHER_INSTRUCTIONS)
    by_model = {model: [t for job, traces in correct.items() if job[0] == model for t in traces] for model in MODELS}
    tables = {
        "Correct runs called wrong": false_alarms(by_model),
        "Correct changes, over three seeds": changes(by_model),
        "Impostors, over one seed": misses(impostors),
        "A gradient that is a little off, in float64, over three seeds": smallest_errors(gradients, by_model),
    } | others_losses()
    text = "\n".join(as_markdown(title, rows) for title, rows in tables.items())
    print(text)
    write_into(option("page", ""), BEGIN, text, END)


if __name__ == "__main__":
    main()
