"""report.md: a comparison as a page that is read by itself."""

import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from subprocess import CalledProcessError

from xent.recording.trace import Trace
from xent.verdict.grouping import Group
from xent.verdict.tables import as_markdown, detail_rows, gap_rows, verdict_rows

RULE = """
## How it is judged

Every run is trained beside a reference run that differs in nothing but what is compared. The *gap* is the distance of
its outputs on the probe, inputs that stay the same, from the reference's, over the length of those: a geometric mean
over seeds. (xent's own trainings are probed with 256 test images.) The *floor* is the gap of the reference to itself,
nudged: every first weight moved by one unit in the last place, the samples of every batch in another order. So far
apart are correct runs, by rounding alone.

- decades above floor: powers of ten between gap and floor, the mean over seeds and steps, or over steps that stand out
- limit: how many of them rounding explains: 2 over the root of the number of seeds, or as many as a nudged run reaches
- nudged runs reach: the most decades that one nudge of the reference is above the other nudges
- left floor at step: the first at which the gap of a run that is not the same is above all of those
- losses above floor: the same for the training losses in place of the outputs
- losses differ by: the most that any one training loss differs from the reference's, of all steps and runs
"""


SAID = ("nudge", "seed", "precision", "device")  # below


def page(groups: list[Group], by: str, answer: str, remarks: list[str], command: str) -> str:
    """The question, the answer, what was run, the picture, the tables, the rule, and how to repeat it.

    Args:
        command: what was typed.
    """
    references = " and ".join(dict.fromkeys(str(group.reference.settings[by]) for group in groups))
    parts = [
        f"# Does training with another {by} behave as training with {references}?",
        answer,
        *remarks,
        "![Training losses over each other, and the gaps to the reference above the floor](curves.png)",
        as_markdown("Verdict", verdict_rows(groups)),
        as_markdown("In detail", detail_rows(groups)),
        as_markdown("Gap to the reference, after so many steps", gap_rows(groups)),
        as_markdown("What was run", _what_was_run(groups)),
        f"{RULE}\n## To repeat it\n\n```console\n{command}\n```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _what_was_run(groups: list[Group]) -> list[list[str]]:
    """The settings that a person asks for first; where runs differ, all values."""
    pairs = [pair for group in groups for pair in group.pairs]
    traces = [trace for pair in pairs for trace in (pair.candidate, pair.reference, pair.unnudged, *pair.nudged)]
    traces = list({id(trace): trace for trace in traces}.values())

    def values(*keys: str) -> str:
        found = dict.fromkeys(
            " ".join(str(trace.settings[key]) for key in keys if key in trace.settings) for trace in traces
        )
        return ", ".join(sorted(value for value in found if value))

    settings = traces[0].settings
    ours = {"data": values("data"), "model": values("model", "model.width")}
    theirs = {key: values(key) for key in settings if "." not in key and key not in (*ours, *SAID)}
    rows = {
        "date": date.today().isoformat(),
        "xent": _version(),
        **(ours if ours["data"] else theirs),
        "precision": values("precision"),
        "steps": ", ".join(sorted({str(trace.step) for trace in traces})),
        "seeds": values("seed"),
        "nudges": values("nudge"),
        "runs": str(len(traces)),
        "device": values("device"),
        **{key: values(f"machine.{key}") for key in _machine(traces)},
    }
    return [["", ""], *([key, value] for key, value in rows.items() if value)]


def _machine(traces: list[Trace]) -> list[str]:
    return [key.removeprefix("machine.") for key in traces[0].settings if key.startswith("machine.")]


def _version() -> str:
    """The version, and the commit where this is a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        here = Path(__file__).parent
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
        return f"{version('xent')}, commit {found}"
    except (OSError, CalledProcessError):
        return version("xent")
