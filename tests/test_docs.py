"""docs/cross-entropy.md: what it shows is what is printed and drawn now."""

import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.__main__ import DOCS, PAGE, renew
from docs.cross_entropy import on_a_gpu
from docs.pictures import DPI, PICTURES

GALLERY = "## A gallery of impostors"


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("docs") / PAGE.name
    shutil.copy(PAGE, page)
    renew(page)
    return page.read_text()


def test_every_number_is_what_is_printed_now(renewed: str) -> None:
    assert renewed.partition(GALLERY)[0] == PAGE.read_text().partition(GALLERY)[0]


def test_every_impostor_is_judged_as_it_stands_there(renewed: str) -> None:
    """To half a decade: the floor, and what only rounding makes differ, are the processor's."""
    new, old = (text.partition(GALLERY)[2] for text in (renewed, PAGE.read_text()))
    number = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?(?= \|)")
    assert number.sub("", new) == number.sub("", old)
    assert old.count("| different |") == old.count("\n| `") >= 19
    for now, shown in zip(number.findall(new), number.findall(old)):
        decades = shown[0] in "+-"
        assert float(now) == pytest.approx(float(shown), abs=0.5 if decades else 1e-14, rel=1e-9 if decades else 0.2)


def test_nothing_is_typed_in_by_hand() -> None:
    """Every block of code and every table is between cog's markers."""
    by_hand = re.sub(
        r"^<!-- \[\[\[cog .*?^<!-- \[\[\[end\]\]\] -->", "", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE
    )
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


def test_the_readme_says_what_was_found_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    on_a_gpu()
    assert capsys.readouterr().out in (DOCS.parent / "README.md").read_text()


def test_every_link_leads_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / Path(target)).exists(), f"{page.name}: {target}"
