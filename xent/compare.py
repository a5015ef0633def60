"""The command that judges runs: `python -m xent.compare RUN...`, exit 0 same, 1 different, 2 not comparable."""

import argparse
import os
import shlex
import sys
import traceback
from datetime import datetime
from pathlib import Path

import yaml

from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.runs.hydra_grammar import quoted
from xent.runs.traces import SWEEP, common_parent, load_runs
from xent.verdict.judging import Verdict, judge
from xent.verdict.matching import pairs
from xent.verdict.report import report


def compare(
    folders: list[Path], by: str = "loss", reference: str | None = None, output: Path | None = None, command: str = ""
) -> int:
    """Judge the runs in these folders, print and write the report. BadInput if they cannot be compared.

    Args:
        by, reference: see xent.verdict.matching.pairs.
        output: where to write the report; by default `comparison` in the folder of a sweep, or a new folder beside runs
            that are of none.
        command: what was typed, for the report.

    Returns:
        0 if every candidate is the same as its reference, if within rounding; 1 if one learns differently or reports
        other values; 2 if there is no floor to judge by, or neither learned anything.
    """
    traces = load_runs(folders)
    found = pairs(traces, by, reference)
    judgements = judge(found)
    report(judgements, output or _beside(common_parent(traces)), by, command)
    without_floor = [each.pairs[0].reference for each in judgements if each.verdict is Verdict.NO_FLOOR]
    if without_floor and not (without_floor[0].folder.parent / SWEEP).exists():
        print(_how_to_make_a_floor(without_floor[0], folders, by))
    used = {id(trace) for pair in found for trace in (pair.candidate, pair.unnudged, *pair.nudged)}
    unused = [trace.name for trace in traces if id(trace) not in used]
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        print(f"the reference of no other run, so not used: {', '.join(unused[:3])}{more}")
    verdicts = {judgement.verdict for judgement in judgements}
    if verdicts & {Verdict.DIFFERENT, Verdict.OTHER_VALUES}:
        return 1
    return 2 if verdicts & {Verdict.NO_FLOOR, Verdict.NOTHING_LEARNED} else 0


def _beside(parent: Path) -> Path:
    if (parent / SWEEP).exists():
        return parent / "comparison"
    return parent / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_comparison"


def _how_to_make_a_floor(reference: Trace, folders: list[Path], by: str) -> str:
    """The two commands that train the reference nudged, and compare again."""
    file = reference.folder / ".hydra" / "overrides.yaml"
    if not file.exists():
        return f"To make a floor, record {reference.name} again with nudge=1 and with nudge=2, and compare all of them"
    overrides = yaml.safe_load(file.read_text())
    overrides = [each for each in overrides if not each.startswith("nudge=")]
    into = os.path.relpath(reference.folder.with_name(f"{reference.folder.name}_nudged"))
    train = [*overrides, "nudge=1,2", f"hydra.sweep.dir={quoted(into)}", "hydra.callbacks.compare.by=null"]
    again = [*(os.path.relpath(folder) for folder in folders), into, *([f"--by={by}"] if by != "loss" else [])]
    commands = shlex.join(["python", "train.py", "-m", *train]), shlex.join(["python", "-m", "xent.compare", *again])
    return "To make a floor:\n  " + "\n  ".join(commands)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m xent.compare", description="Judge runs by those with the reference.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run, or of a sweep")
    parser.add_argument(
        "--by", default="loss", help="the setting that is compared, as device or optimizer.lr; %(default)s"
    )
    parser.add_argument("--reference", help="its value in the reference runs; torch for losses")
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write the report, over what is there; else comparison/ in a sweep, or a new folder",
    )
    given = parser.parse_args(arguments)
    try:
        command = shlex.join(["python", "-m", "xent.compare", *(arguments or sys.argv[1:])])
        raise SystemExit(compare(given.runs, given.by, given.reference, given.output, command))
    except (BadInput, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except Exception:  # a mistake of ours, and no verdict
        traceback.print_exc()
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
