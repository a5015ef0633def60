"""A comparison in TensorBoard: overlaid curves, the verdict as a page, the picture."""

import re
from math import log10
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from xent.report.summary import Summary, candidates_of

PICTURE = re.compile(r"!\[.*?\]\(.*?\)\n\n")  # a link to a file, which TensorBoard's text does not show

Curves = dict[str, dict[str, dict[int, float | None]]]  # by run, by tag, by step


def write(summary: Summary, folder: Path, page: str, picture: Figure, where: Figure | None) -> None:
    """Write page and pictures as the run `comparison`, and inside it the curves, a run for each candidate."""
    for old in [*folder.glob("events.out.tfevents.*"), *folder.glob("curves/*/events.out.tfevents.*")]:
        old.unlink()  # TensorBoard would also draw the curves of an earlier comparison
    sweep = folder.resolve().parent.name
    charts, curves = {}, Curves()
    for name, reference in summary["references"].items():
        candidates = candidates_of(summary, name)
        title = _title(sweep, name, candidates)
        of_loss, of_gap = f"{title}/training loss", f"{title}/log10 of the gap to the reference, and the floor"
        charts[title] = {tag.partition("/")[2]: ["Multiline", [f"{re.escape(tag)}$"]] for tag in (of_loss, of_gap)}
        parts = {reference["short name"]: {"losses": reference["losses"]}, "floor": {"gap": reference["floor"]}}
        for run, part in (parts | candidates).items():
            decades = {step: log10(gap) for step, gap in part.get("gap", {}).items() if gap}
            by_tag = {of_loss: part.get("losses", {}), of_gap: decades}
            if filled := {tag: curve for tag, curve in by_tag.items() if curve}:
                curves.setdefault(run, {}).update(filled)
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("verdict", PICTURE.sub("", page), 0)
        writer.add_figure("curves", picture, close=False)
        if where:
            writer.add_figure("where", where, close=False)
        writer.add_custom_scalars(charts)
    for run, by_tag in curves.items():
        with SummaryWriter(str(folder / "curves" / run.replace("/", "%2F"))) as writer:
            for tag, step, value in [(tag, *point) for tag, curve in by_tag.items() for point in curve.items()]:
                if value is not None:
                    writer.add_scalar(tag, value, step)


def _title(sweep: str, reference: str, candidates: dict[str, Summary]) -> str:
    """The heading of the charts: the sweep, the reference and the verdicts.

    It is part of the tags, since a chart shows every curve of its tag. Losses and gaps stand under one heading.
    """
    names: dict[str, list[str]] = {}
    for name, candidate in candidates.items():
        names.setdefault(candidate["verdict"], []).append(name)
    few = {verdict: ", ".join(runs) if len(runs) <= 4 else f"{len(runs)} runs" for verdict, runs in names.items()}
    verdicts = "; ".join(f"{verdict}: {runs}" for verdict, runs in few.items())
    return f"{sweep}, against {reference} | {verdicts}".replace("/", " ")  # TensorBoard cuts a tag at a slash
