"""What a person sees of a sweep in TensorBoard, in Chromium. --screenshots writes the pictures of README.md."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.helpers.commands import PROJECT, train_py
from xent.report.tensorboard import DECADES

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
PATIENCE = 60_000  # milliseconds
VERDICT = "proof, against torch, {} | same within rounding: article, fused, scratch"

NO_CHROMIUM = "there is no browser here; Debian's is apt-get install chromium"
pytestmark = [pytest.mark.extra, pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]
Show = Callable[[str, int, int], Page]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `make tensorboard` shows what `make compare` leaves."""
    folder = tmp_path_factory.mktemp("browser")
    result = train_py("-m", "+experiment=proof", f"hydra.sweep.dir={folder / 'outputs' / 'proof'}")
    assert result.returncode == 0, result.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = f"BIN={Path(sys.executable).parent}", "--old-file", ".venv/train", "-f", str(PROJECT / "Makefile")
    make = ["make", "--no-print-directory", "tensorboard", *here, f"port={port}"]
    # TensorBoard lists some things in the order of a set. The tests may themselves be run by make.
    environment = os.environ | {"PYTHONHASHSEED": "0", "MAKEFLAGS": ""}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(make, cwd=folder, env=environment, **quiet) as server:
        assert server.stdout is not None
        curves, verdicts = server.stdout.readline(), server.stdout.readline()
        assert verdicts.startswith("verdicts: ") and verdicts.endswith("#text&regexInput=comparison$\n")
        assert any("Press CTRL+C" in line for line in server.stdout), "TensorBoard never listened"
        yield curves.split()[-1]
        os.killpg(server.pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)


@pytest.fixture
def show(address: str, browser: Browser, pytestconfig: pytest.Config) -> Iterator[Show]:
    """A function that opens a tab in a window of some size. At the end of the test its picture is taken."""
    pages: dict[str, Page] = {}

    def opened(tab: str, width: int, height: int) -> Page:
        page = pages[tab] = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address.partition('#')[0]}?smoothing=0#{tab}")
        return page

    yield opened
    folder = pytestconfig.getoption("screenshots")
    for tab, page in pages.items():
        if folder and tab not in ("", "images"):  # which show the date
            page.wait_for_timeout(3000)  # for what is still moving
            picture = Image.open(BytesIO(page.screenshot())).convert("RGB").quantize(128)
            picture.save(Path(folder) / f"tensorboard_{tab.partition('&')[0]}.png", optimize=True)
        page.close()


def assert_seen(*locators: Locator) -> None:
    for locator in locators:
        expect(locator.first).to_be_visible(timeout=PATIENCE)


def test_the_first_thing_seen_is_the_curves_the_gap_with_the_floor_and_the_verdict(address: str, show: Show) -> None:
    page = show(address.partition("#")[2], 1100, 900)
    assert_seen(*(page.get_by_text(VERDICT.format(precision)) for precision in ("float32", "float64")))
    for lines in (4, 6):
        expect(page.get_by_text(f"Matches ({lines})")).to_have_count(2, timeout=PATIENCE)
    runs = [f"proof/comparison/curves/{run}" for run in ("torch", "scratch", "floor", "nudged runs", "limit")]
    assert_seen(*(page.get_by_text(text, exact=True) for text in ("training loss", DECADES, *runs)))


def test_the_plain_address_shows_them_too(show: Show) -> None:
    page = show("", 1300, 900)
    assert_seen(page.get_by_text(VERDICT.format("float32")))
    for title, runs in (("training loss", ("torch", "scratch")), (DECADES, ("scratch", "floor"))):
        card = page.locator("scalar-card").filter(has_text=title).first
        assert_seen(*(card.get_by_text(f"proof/comparison/curves/{run}") for run in runs))


def test_one_chart_shows_the_training_loss_of_every_run(show: Show) -> None:
    page = show("timeseries", 1250, 640)
    page.get_by_role("combobox", name="Filter tags").fill("^train/loss$")
    page.get_by_role("button", name="Settings").first.click()  # which makes room
    card, runs = page.locator("scalar-card").filter(has_text="train/loss"), page.locator("runs-data-table")
    expect(card).to_have_count(1, timeout=PATIENCE)
    for loss in ("torch", "scratch"):
        name = f"proof/loss={loss},nudge=0,seed=0,precision=float32"
        assert_seen(runs.get_by_text(name), card.get_by_text(name))
    expect(runs.get_by_text("nudge=1")).to_have_count(0)


def test_the_verdict_is_there_as_a_page_and_as_a_picture(show: Show) -> None:
    page = show("text&regexInput=comparison$", 1250, 720)
    assert_seen(page.get_by_role("cell", name="same within rounding", exact=True))
    picture = show("images", 1250, 640).locator("img")
    assert_seen(picture)
    assert picture.first.evaluate("image => image.naturalWidth") > 500


def test_the_table_of_settings_lists_every_run_with_its_figures(show: Show) -> None:
    page = show("hparams", 1700, 340)
    assert_seen(*(page.get_by_text(header, exact=True) for header in ("loss", "nudge", "test/accuracy", "test/loss")))
    for loss in ("torch", "scratch"):
        expect(page.get_by_text(re.compile(f"^proof/loss={loss},"))).to_have_count(2, timeout=PATIENCE)
