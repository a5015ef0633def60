"""docs/cross-entropy.md: its tables and pictures are what is computed now. Its code is run in test_notebook.py."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.cross_entropy import DOCS, on_a_gpu, renewed
from docs.notebook import BLOCK, PAGE
from docs.pictures import DPI, PICTURES

GALLERY = "## A gallery of impostors"


@pytest.fixture(scope="module")
def renewed_page() -> str:
    return renewed(PAGE.read_text())


def test_code_is_quoted_as_it_is_now(renewed_page: str) -> None:
    before, _, _ = PAGE.read_text().partition(GALLERY)
    assert renewed_page.partition(GALLERY)[0] == before
    assert before.count("<!-- begin ") == 2


def test_every_impostor_is_judged_as_it_stands_there(renewed_page: str) -> None:
    """To half a decade: the floor, and what only rounding makes differ, are the processor's."""
    new, old = (text.partition(GALLERY)[2] for text in (renewed_page, PAGE.read_text()))
    number = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?(?= \|)")
    assert number.sub("", new) == number.sub("", old)
    assert old.count("| different |") == old.count("\n| `") >= 19
    for now, shown in zip(number.findall(new), number.findall(old)):
        decades = shown[0] in "+-"
        assert float(now) == pytest.approx(float(shown), abs=0.5 if decades else 1e-14, rel=1e-9 if decades else 0.2)


def test_nothing_is_typed_in_by_hand() -> None:
    """Every block of code and every table is between marks, or is run for its output."""
    marked = r"^<!-- begin \w+ -->.*?^<!-- end -->"
    by_hand = BLOCK.sub("", re.sub(marked, "", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE))
    assert "```text" not in by_hand
    assert "```python" not in by_hand
    assert "\n|" not in by_hand


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
