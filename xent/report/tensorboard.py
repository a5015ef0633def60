"""A comparison in TensorBoard: overlaid curves, the verdict as a page, the picture."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from math import log10
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from xent.report.addresses import newest_first
from xent.report.summary import SCHEMA_VERSION, Summary, candidates_of

PICTURE = re.compile(r"!\[.*?\]\(.*?\)\n\n")  # a link to a file, which TensorBoard's text does not show

HEADINGS = ".headings"  # ends the name of the file that lists comparisons
DECADES = "decades above the floor, which is 0, and the limit"  # its charts break at brackets

Curves = dict[str, dict[str, Mapping[int, float | None]]]  # by run, by tag, by step


def write(summary: Summary, folder: Path, page: str, picture: Figure, where: Figure | None) -> None:
    """Write page and pictures as the run `comparison`, and inside it the curves, a run for each of them."""
    for old in [*folder.glob("events.out.tfevents.*"), *folder.glob("curves/*/events.out.tfevents.*")]:
        old.unlink()  # TensorBoard would also draw the curves of an earlier comparison
    charts, curves = {}, Curves()
    for title, (name, reference) in zip(_titles(summary, folder), summary["references"].items()):
        tags = of_loss, of_decades = f"{title}/training loss", f"{title}/{DECADES}"
        charts[title] = {tag.partition("/")[2]: ["Multiline", [f"{re.escape(tag)}$"]] for tag in tags}
        candidates = candidates_of(summary, name)
        for run, part in ({reference["short name"]: reference} | candidates).items():
            curves.setdefault(run, {})[of_loss] = part["losses"]
        for run, decades in _decades(reference, candidates).items():
            curves.setdefault(run, {})[of_decades] = decades
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("verdict", PICTURE.sub("", page), 0)
        writer.add_figure("curves", picture, close=False)
        if where:
            writer.add_figure("where", where, close=False)
        writer.add_custom_scalars(charts)
    for run, by_tag in curves.items():
        with SummaryWriter(str(folder / "curves" / run.replace("/", " "))) as writer:
            for tag, step, value in [(tag, *point) for tag, curve in by_tag.items() for point in curve.items()]:
                if value is not None:
                    writer.add_scalar(tag, value, step)


def list_newest_first(outputs: Path) -> None:
    """Write the headings of all comparisons in a folder, the newest first.

    TensorBoard lists the headings of its runs in the order of their names. The first is that of the folder itself.
    """
    for old in outputs.glob(f"events.out.tfevents.*{HEADINGS}"):
        old.unlink(missing_ok=True)
    titles: list[str] = []
    for folder in newest_first(outputs):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # damaged, or another program's
            summary = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
            titles += _titles(summary, folder) if summary["schema version"] == SCHEMA_VERSION else []
    with SummaryWriter(str(outputs), filename_suffix=HEADINGS) as writer:
        writer.add_custom_scalars({title: {} for title in titles})  # whose charts are in each comparison


def _decades(reference: Summary, candidates: dict[str, Summary]) -> dict[str, dict[int, float]]:
    """Decades above the floor by name and step, of candidates, nudged runs and the limit; empty without a floor."""
    floor = {step: floor for step, floor in reference["floor"].items() if floor}
    if not floor:
        return {}
    lines = {
        name: {step: log10(gap / floor[step]) for step, gap in candidate["gap"].items() if gap and step in floor}
        for name, candidate in candidates.items()
    }
    limit = max(candidate["limit"] for candidate in candidates.values())
    nudged = reference["nudged runs above"]
    return lines | {"floor": dict.fromkeys(floor, 0.0), "nudged runs": nudged, "limit": dict.fromkeys(floor, limit)}


def _titles(summary: Summary, folder: Path) -> list[str]:
    """The heading of the charts of each reference: the sweep, the reference and the verdicts.

    They are part of the tags, since a chart shows every curve of its tag. Losses and decades stand under one heading.
    """
    folder = folder.resolve()
    sweep = folder.parent.name if folder.name == "comparison" else folder.name
    return [_title(sweep, name, candidates_of(summary, name)) for name in summary["references"]]


def _title(sweep: str, reference: str, candidates: dict[str, Summary]) -> str:
    names: dict[str, list[str]] = {}
    for name, candidate in candidates.items():
        names.setdefault(candidate["verdict"], []).append(name)
    few = {verdict: ", ".join(runs) if len(runs) <= 4 else f"{len(runs)} runs" for verdict, runs in names.items()}
    verdicts = "; ".join(f"{verdict}: {runs}" for verdict, runs in few.items())
    return f"{sweep}, against {reference} | {verdicts}".replace("/", " ")  # TensorBoard cuts a tag at a slash
