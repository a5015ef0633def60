"""docs/cross-entropy.md: its code prints, its tables and pictures show, and its notebook holds what is computed now."""

import re
from contextlib import redirect_stdout
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import numpy as np
import pytest
from PIL import Image

from docs.cross_entropy import DOCS, on_a_gpu, renewed
from docs.notebook import BLOCK, NOTEBOOK, PAGE, executed, printed, with_output
from docs.pictures import DPI, PICTURES
from xent.recording import Recorder
from xent.testing import same_learning, same_training
from xent.testing.same_training import Train
from xent.verdict.judging import Judgement

GALLERY = "## A gallery of impostors"
STORED = nbformat.read(NOTEBOOK, as_version=4)


def test_code_prints_what_stands_under_it() -> None:
    names: dict[str, Any] = {}
    for block in BLOCK.finditer(PAGE.read_text()):
        with redirect_stdout(StringIO()) as stream:
            exec(block[1], names)
        output = f"\n```text\n{stream.getvalue()}```\n" if stream.getvalue() else ""
        assert block[0] == f"```python\n{block[1]}```\n{output}"


def test_the_notebook_has_the_text_of_the_page_and_the_output_that_stands_there() -> None:
    nbformat.validate(STORED)
    page = PAGE.read_text()
    with patch("docs.notebook.NotebookClient"):  # the cells, without running them
        cells = executed(page).cells
    assert [(cell.cell_type, cell.source) for cell in STORED.cells] == [(cell.cell_type, cell.source) for cell in cells]
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(code) >= 14 and all(f"```python\n{source}\n" in page for source in code)
    assert not any("<!--" in cell.source or "```math" in cell.source for cell in cells)
    for old in (page, page.replace("tensor(1.7413)", "out of date")):
        assert with_output(old, STORED).splitlines() == page.splitlines()  # pytest compares long texts for minutes


@pytest.mark.extra
def test_the_notebook_prints_what_is_stored() -> None:
    assert [printed(cell) for cell in executed(PAGE.read_text()).cells] == [printed(cell) for cell in STORED.cells]


def test_code_is_quoted_and_every_impostor_is_judged_as_it_stands_there() -> None:
    """To half a decade: the floor, and what only rounding makes differ, are the processor's."""
    states: dict[Any, Any] = {}  # of the references, which are trained once

    def judge_training(ours: Train, theirs: partial[None], *options: Any) -> Judgement:
        def reference(recorder: Recorder) -> None:
            _, task, _ = theirs.args
            key = task.ignored, recorder.trace.settings["nudge"]
            if key in states:
                return recorder.load_state_dict(states[key])
            theirs(recorder)
            states[key] = recorder.state_dict()

        return same_training.judge_training(ours, reference, *options)

    page = PAGE.read_text()
    with patch.object(same_learning, "judge_training", judge_training):
        (text, _, gallery), (new_text, _, new_gallery) = (text.partition(GALLERY) for text in (page, renewed(page)))
    assert new_text.splitlines() == text.splitlines()
    assert text.count("<!-- begin ") == 2
    number = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?(?= \|)")
    assert number.sub("", new_gallery).splitlines() == number.sub("", gallery).splitlines()
    assert gallery.count("| different |") == gallery.count("\n| `") >= 19
    for now, shown in zip(number.findall(new_gallery), number.findall(gallery)):
        decades = shown[0] in "+-"
        assert float(now) == pytest.approx(float(shown), abs=0.5 if decades else 1e-14, rel=1e-9 if decades else 0.2)


def test_nothing_is_typed_in_by_hand() -> None:
    """Every block of code and every table is between marks, or is run for its output."""
    marked = r"^<!-- begin \w+ -->.*?^<!-- end -->"
    by_hand = BLOCK.sub("", re.sub(marked, "", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE))
    assert not any(typed in by_hand for typed in ("```text", "```python", "\n|"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_is_drawn_now(name: str) -> None:
    drawn = BytesIO()
    PICTURES[name]().savefig(drawn, dpi=DPI)
    new, old = (np.asarray(Image.open(file).convert("L"), dtype=float) for file in (drawn, DOCS / name))
    assert new.shape == old.shape
    assert (np.abs(new - old) > 64).mean() < 2e-4


def test_pictures_bring_their_own_ground() -> None:
    """So that a dark page shows them as a light one does."""
    for file in DOCS.glob("*.png"):
        picture = Image.open(file).convert("RGBA")
        assert picture.getextrema()[3] == (255, 255), f"{file.name} is transparent"


def test_the_readme_says_what_was_found_on_a_gpu() -> None:
    assert f"<!-- begin on_a_gpu -->\n{on_a_gpu()}<!-- end -->" in (DOCS.parent / "README.md").read_text()


def test_every_link_leads_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / Path(target)).exists(), f"{page.name}: {target}"
