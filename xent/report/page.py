"""report.md: a comparison as a page that stands by itself."""

from typing import Any

from xent.report.summary import Summary

RULE = """
## How it is judged

Every run is trained beside a reference run that differs in nothing but what is compared. The *gap* is the distance of
its outputs on the probe, inputs that stay the same, from the reference's, over the length of those: a geometric mean
over seeds. (xent's own trainings are probed with 256 test images.) The *floor* is the gap of the reference to itself,
nudged: every first weight moved by one unit in the last place, the samples of every batch in another order. So far
apart are correct runs, by rounding alone.

- decades above floor: powers of ten between gap and floor. It is the mean over all seeds and steps, or that of the run
  or the stretch of steps that stands out most, times the root of its share. So it may be positive where most gaps are
  below the floor
- limit: how many of them rounding explains: 2 over the root of the number of seeds, or as many as a nudged run reaches.
  A single late step may be further above, by three standard deviations of the nudged runs there
- nudged runs reach: the most decades that one nudge of the reference is above the other nudges
- left floor at step: of a run that is judged different, the first at which its gap is beyond the limit, and above that
  of every nudged run
- losses above floor: the same for the training losses in place of the outputs
- losses differ by: the largest absolute difference of a training loss from the reference's, over all steps and seeds
"""

NAMES = {"runs": "number of runs", "steps": "steps of a run", "seeds": "values of seed", "nudges": "values of nudge"}

Rows = list[list[str]]  # the first is the header


def page(summary: Summary) -> str:
    """The question, the answer, the picture, the tables, what was run, the rule, and how to repeat it."""
    references = " and ".join(dict.fromkeys(reference["short name"] for reference in summary["references"].values()))
    parts = [
        f"# Does training with another {summary['compared']} behave as training with {references}?",
        summary["answer"],
        *summary["remarks"],
        "![Training losses over each other, and the gaps to the reference above the floor](curves.png)",
        f"## Verdict\n\n{markdown_table(verdict_rows(summary))}",
        *_where(summary),
        f"## In detail\n\n{markdown_table(detail_rows(summary))}",
        f"## Gap to the reference, after so many steps\n\n{markdown_table(gap_rows(summary))}",
        f"## What was run\n\n{markdown_table([['', ''], *_what_was_run(summary)])}",
        f"{RULE}\n## To repeat it\n\n```console\n{summary['command']}\n```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _where(summary: Summary) -> list[str]:
    """The section on where candidates leave the floor, if the runs captured any step."""
    named = {name: part["where"] for name, part in summary["candidates"].items() if part["where"]}
    if not named:
        return []
    rows = [["run", "where"], *([name, "; ".join(where["in words"])] for name, where in named.items())]
    picture = "![Every tensor of a step, in order, in decades above its own floor](where.png)"
    return [f"## Where it begins\n\n{markdown_table(rows)}", picture]


def _what_was_run(summary: Summary) -> Rows:
    """The settings that all runs share. Those inside groups are in verdict.json."""
    shared = {key: value for key, value in summary["settings"].items() if "." not in key or key.startswith("machine.")}
    rows = summary["what was run"] | {key: value for key, value in shared.items() if value not in ("", None)}
    return [[NAMES.get(key, key.removeprefix("machine.")), str(value)] for key, value in rows.items()]


def verdict_rows(summary: Summary) -> Rows:
    """The table of verdicts: a row per candidate."""
    keys = {"verdict": "{}", "decades above floor": "{:+.2f}", "limit": "{:.2f}"}
    rows = [_row(name, candidate, keys) for name, candidate in summary["candidates"].items()]
    return [["run", *keys], *rows]


def detail_rows(summary: Summary) -> Rows:
    """The table behind the verdicts: each reference, and under it its candidates."""
    keys = {"nudged runs reach": "{:+.2f}", "left floor at step": "{}"}
    keys |= {"losses above floor": "{:+.2f}", "losses differ by": "{:.1e}"}
    if any(part["test loss"] is not None for part in summary["references"].values()):
        keys |= {"test loss": "{:.4f}", "test accuracy": "{:.2%}"}
    rows = [["run", *keys]]
    for name, reference in summary["references"].items():
        rows.append(_row(f"{name}, the reference", reference, keys))
        candidates = summary["candidates"].items()
        rows += [_row(candidate, part, keys) for candidate, part in candidates if part["reference"] == name]
    return rows


def gap_rows(summary: Summary) -> Rows:
    """The table of gaps: every candidate at the probe steps, then the floors."""
    lines = {name: candidate["gap"] for name, candidate in summary["candidates"].items()}
    references = summary["references"].items()
    lines |= {f"floor: {name} nudged": part["floor"] for name, part in references if part["floor"]}
    steps = dict.fromkeys(sorted({step for line in lines.values() for step in line}), "{:.0e}")
    return [["run", *map(str, steps)], *(_row(name, line, steps) for name, line in lines.items())]


def _row(name: str, figures: dict[Any, Any], formats: dict[Any, str]) -> list[str]:
    """A row of a table: a name and its figures as text; empty where there is no figure."""
    return [name, *("" if figures.get(key) is None else text.format(figures[key]) for key, text in formats.items())]


def markdown_table(rows: Rows) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))
