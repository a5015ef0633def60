"""Judge runs: `python -m xent.compare RUN...`, with exit code 0 for same, 1 for different, 2 for not comparable."""

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from xent.recording.errors import BadInput
from xent.recording.output import outlive_readers
from xent.recording.trace import FILE, Trace, load
from xent.report.page import page
from xent.report.summary import Summary, exit_code, summarise
from xent.verdict.exact import first_difference
from xent.verdict.judging import judge
from xent.verdict.matching import pairs
from xent.verdict.where import Renames, rename_captures

SWEEP = "multirun.yaml"  # Hydra writes it into the folder of a sweep
CHECKPOINT = "checkpoint.pt"


def compare(
    folders: list[Path],
    by: str = "loss",
    reference: str | None = None,
    output: Path | None = None,
    command: str = "",
    rename: Renames | None = None,
) -> int:
    """Judge the runs in these folders, print the verdicts and write the report.

    Args:
        folders: of runs, or of sweeps; see `load_runs`.
        by: the setting that is compared; see xent.verdict.matching.pairs.
        reference: its value in the reference runs; see there.
        output: the folder of the report. Defaults to `comparison` in the folder of a sweep, or to a new folder beside
            runs that belong to no sweep.
        command: what was typed, for the report.
        rename: module paths of the candidates, or parts of them, and what they are in the references.

    Returns:
        the exit code; see xent.report.summary.exit_code.

    Raises:
        BadInput: the runs cannot be compared.
    """
    traces = load_runs(folders)
    matched = pairs(traces, by, reference)
    for pair in matched:
        rename_captures(pair.candidate, rename or {})
    summary = summarise(judge(matched), by, command)
    parent = _common_parent(traces)
    folder = "comparison" if (parent / SWEEP).exists() else f"{datetime.now():%Y-%m-%d_%H-%M-%S}_comparison"
    write_report(summary, output or parent / folder)
    used = {id(trace) for pair in matched for trace in (pair.candidate, pair.unnudged, *pair.nudged)}
    if unused := [trace.name for trace in traces if id(trace) not in used]:
        print(f"the reference of no other run, so not used: {', '.join(unused)}")
    return exit_code(summary)


def compare_exactly(folders: list[Path]) -> int:
    """Print whether runs are equal to the last bit to the first of them, and where they cease to be.

    Returns:
        the exit code: 0 if all are, else 1.

    Raises:
        BadInput: the runs cannot be read, or there is one alone.
    """
    first, *others = load_runs(folders)
    if not others:
        raise BadInput(f"--exact: there is {first.name} alone, expected two runs or more, each held against the first")
    differences = {run.name: first_difference(run, first) for run in others}
    for name, difference in differences.items():
        differs = difference and f"differs from {first.name} from step {difference.step} on: {difference.what}"
        print(f"{name} {differs or f'is equal to {first.name} to the last bit, in {first.step} steps'}")
    return 1 if any(differences.values()) else 0


def write_report(summary: Summary, folder: Path) -> None:
    """Write `verdict.json`, `report.md`, pictures and TensorBoard events; print the verdicts and the answer."""
    from xent.report import tensorboard  # here, since --exact needs torch and NumPy alone
    from xent.report.picture import draw, draw_where
    from xent.report.terminal import print_summary

    folder.mkdir(parents=True, exist_ok=True)
    text, picture, where = page(summary), draw(summary), draw_where(summary)
    (folder / "verdict.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    (folder / "report.md").write_text(text, encoding="utf-8")
    picture.savefig(folder / "curves.png", dpi=150)
    if where:
        where.savefig(folder / "where.png", dpi=150)
    tensorboard.write(summary, folder, text, picture, where)
    print_summary(summary)
    print(f"Report: {os.path.relpath(folder / 'report.md')}\nPicture: {os.path.relpath(folder / 'curves.png')}")
    outputs = Path("outputs").resolve()
    in_outputs = folder.resolve().is_relative_to(outputs)
    if in_outputs:
        tensorboard.list_newest_first(outputs)
    command = "make tensorboard" if in_outputs else f"tensorboard --logdir {os.path.relpath(folder.parent)}"
    print(f"In a browser: {command}")


def load_runs(folders: Iterable[Path]) -> list[Trace]:
    """Load the traces of run folders, of all runs directly inside other folders, and of all runs anywhere in a sweep.

    Folders of comparisons are skipped.

    Raises:
        BadInput: a folder holds no trace, a trace that cannot be read, or an unfinished run.
    """
    traces = []
    for folder in folders:
        if (folder / "verdict.json").exists():  # a comparison: `runs/*` matches it too
            continue
        depth = "**" if (folder / SWEEP).exists() else "*"
        inside = sorted({file.parent for name in (FILE, CHECKPOINT) for file in folder.glob(f"{depth}/{name}")})
        for run in [folder] if (folder / FILE).exists() else inside or [folder]:
            if (run / CHECKPOINT).exists() and not (run / FILE).exists():
                argument = shlex.quote(f"resume={os.path.relpath(run)}")
                advice = f"go on with it, python train.py {argument}"
                if (run.parent / SWEEP).exists():
                    advice = f"go on with its sweep, its own command with hydra.sweep.dir={os.path.relpath(run.parent)}"
                raise BadInput(f"{run} is not finished: {advice}")
            traces.append(load(run))
    _name_by_what_differs(traces)
    return traces


def _common_parent(traces: list[Trace]) -> Path:
    """The innermost folder that holds all these runs; for a sweep, the sweep's own folder."""
    return Path(os.path.commonpath([trace.folder.parent for trace in traces]))


def _name_by_what_differs(traces: list[Trace]) -> None:
    """Name each run after its folder, without the overrides that all runs share.

    If every run has `model=mlp`, `loss=scratch,model=mlp` becomes `loss=scratch`.
    """
    parts = [unquote(str(trace.folder.relative_to(_common_parent(traces)))).split(",") for trace in traces]
    for trace, its_parts in zip(traces, parts):
        what_differs = [part for part in its_parts if not all(part in others for others in parts)]
        trace.name = ",".join(what_differs) or trace.folder.name


def _renames(arguments: list[str]) -> Renames:
    """The renames of the command line.

    Raises:
        BadInput: one has no equals sign.
    """
    rename = {ours: theirs for ours, _, theirs in (argument.partition("=") for argument in arguments)}
    if "" in rename.values():
        raise BadInput(f"--rename {' '.join(arguments)}: expected OURS=THEIRS, two module paths or parts of them")
    return rename


def main(arguments: list[str] | None = None) -> None:
    judges = "Judge runs by those of the reference. Exit code: 0 for the same, 1 for different, 2 for not comparable."
    parser = argparse.ArgumentParser("python -m xent.compare", description=judges)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run, or of a sweep")
    parser.add_argument("--by", default="loss", help="the setting that is compared, such as device (default: loss)")
    parser.add_argument("--reference", help="its value in the reference runs (default for losses: torch)")
    parser.add_argument("--exact", action="store_true", help="are the runs equal to the first, to the last bit?")
    parser.add_argument("--output", type=Path, help="the folder of the report; comparison/ in a sweep, else a new one")
    renames = "a module path of the candidates, or a part of it, and what it is in the references; to find where"
    parser.add_argument("--rename", metavar="OURS=THEIRS", action="append", default=[], help=renames)
    options = parser.parse_args(arguments)
    outlive_readers()
    # `runs/*` matches an earlier comparison too
    given = [word for word in arguments or sys.argv[1:] if not Path(word, "verdict.json").exists()]
    command = shlex.join(["python", "-m", "xent.compare", *given])
    try:
        if options.exact:
            sys.exit(compare_exactly(options.runs))
        rename = _renames(options.rename)
        sys.exit(compare(options.runs, options.by, options.reference, options.output, command, rename))
    except (BadInput, OSError) as error:
        print(error, file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"{error}: a report needs the extra `train`, pip install 'PATH_OF_XENT[train]'", file=sys.stderr)
    except Exception:  # a bug in xent is no verdict
        traceback.print_exc()
    sys.exit(2)


if __name__ == "__main__":
    main()
