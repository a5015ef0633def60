"""What the lesson, docs/own-training.md and docs/where.md show is what is computed, recorded and judged now."""

import re
import runpy
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import xent
from docs.cross_entropy import DOCS, on_a_gpu, renewed
from docs.notebook import BLOCK, NOTEBOOK, PAGE, executed, printed, with_output
from docs.pictures import DPI, PICTURES
from examples import transformer
from tests.helpers.commands import PROJECT, compare_py
from tests.helpers.runs import judged
from xent.losses.impostors import temperature
from xent.recording.trace import load
from xent.training.validate_loss import Loss

GALLERY = "## A gallery of impostors"
STORED = nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_has_the_text_of_the_page_and_prints_what_stands_there() -> None:
    nbformat.validate(STORED)
    page = PAGE.read_text()
    both = [executed(page), STORED]
    cells, stored = ([(cell.cell_type, cell.source, printed(cell)) for cell in each.cells] for each in both)
    assert cells == stored
    code = [source for kind, source, _ in cells if kind == "code"]
    assert len(code) >= 14 and all(f"```python\n{source}\n" in page for source in code)
    assert not any("<!--" in source or "```math" in source for _, source, _ in cells)
    for old in (page, page.replace("tensor(1.7413)", "out of date")):
        assert with_output(old, STORED).splitlines() == page.splitlines()  # pytest compares long texts for minutes


def test_code_and_tables_are_generated_and_every_impostor_is_judged_as_it_stands_there() -> None:
    """To half a decade: the floor, and what only rounding makes differ, are the processor's."""
    page = PAGE.read_text()
    (text, _, gallery), (new_text, _, new_gallery) = (text.partition(GALLERY) for text in (page, renewed(page)))
    assert new_text.splitlines() == text.splitlines()
    assert text.count("<!-- begin ") == 2
    assert f"<!-- begin on_a_gpu -->\n{on_a_gpu()}<!-- end -->" in (DOCS.parent / "README.md").read_text()
    by_hand = BLOCK.sub("", re.sub(r"^<!-- begin \w+ -->.*?^<!-- end -->", "", page, flags=re.DOTALL | re.MULTILINE))
    assert not any(typed in by_hand for typed in ("```text", "```python", "\n|")), "no code or table is typed"
    number = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?(?= \|)")
    assert number.sub("", new_gallery).splitlines() == number.sub("", gallery).splitlines()
    assert gallery.count("| different |") == gallery.count("\n| `") - 1 >= 18, "`lower_precision` is the same function"
    for now, shown in zip(number.findall(new_gallery), number.findall(gallery)):
        decades = shown[0] in "+-"
        assert float(now) == pytest.approx(float(shown), abs=0.5 if decades else 1e-14, rel=1e-9 if decades else 0.2)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_is_drawn_now_on_a_ground_of_its_own_for_dark_pages(name: str) -> None:
    drawn = BytesIO()
    PICTURES[name]().savefig(drawn, dpi=DPI)
    new, old = (np.asarray(Image.open(file).convert("L"), dtype=float) for file in (drawn, DOCS / name))
    assert new.shape == old.shape
    assert (np.abs(new - old) > 64).mean() < 2e-4
    assert Image.open(DOCS / name).convert("RGBA").getextrema()[3] == (255, 255), "no pixel is transparent"


def test_every_link_leads_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / Path(target)).exists(), f"{page.name}: {target}"


def test_the_example_of_where_it_begins_says_what_stands_there_and_passes_once_it_is_mended() -> None:
    page = (DOCS / "where.md").read_text()
    (code, mended), (message,) = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) for kind in ("python", "text")
    )
    with pytest.raises(AssertionError) as told:
        exec(code, {})
    figure = re.compile(r"\d[\d.e-]*")
    assert figure.sub("0", str(told.value)).splitlines() == figure.sub("0", message).splitlines()
    exec(code.replace("        return self.proj(scaled_dot_product_attention(q, k, v))\n", mended), {})


OWN_TRAINING, REFERENCE = ((DOCS / name).read_text() for name in ("own-training.md", "reference.md"))
ONE_LINE, IN_A_TEST, TEN_LINES = re.findall(r"^```python\n(.*?)^```$", OWN_TRAINING, re.MULTILINE | re.DOTALL)
X = torch.randn(512, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
POINTS = TensorDataset(X, (X[:, 0] + X[:, 1] > 0).long())


def commands(word: str) -> list[list[str]]:
    """The lines of the block of commands that a word stands in, as words."""
    blocks = re.findall(r"^```console\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)
    (block,) = [code for code in blocks if word in code]
    return [line.split() for line in block.splitlines()]


def test_the_lines_for_a_test_suite_pass_and_fail() -> None:
    class Model(nn.Sequential):
        def __init__(self, attention: nn.Module) -> None:
            super().__init__(nn.Linear(8, 8), attention, nn.Linear(8, 2))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(self(x.float()), y)

    names: dict[str, Any] = {"Model": Model, "fixed_inputs": X[:32].float(), "mine": nn.SiLU(), "torch": torch}
    names["batches"] = lambda steps: islice(DataLoader(POINTS, 16, shuffle=True), steps)
    code = IN_A_TEST.replace("steps=200", "steps=20")
    exec(code, names | {"theirs": nn.SiLU()})
    with pytest.raises(AssertionError, match="training is different"):
        exec(code, names | {"theirs": nn.GELU()})


def test_the_line_for_a_loop_records_it(tmp_path: Path) -> None:
    model = nn.Linear(8, 2).double()
    names: dict[str, Any] = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    names |= {"fixed_inputs": X[:32], "folder": tmp_path, "settings": {"seed": 1}, "cross_entropy": cross_entropy}
    exec(ONE_LINE, names | {"loader": DataLoader(POINTS, 16)})
    trace = load(tmp_path)
    assert (trace.step, [*trace.probes][-1]) == (32, 32) and trace.losses[-1] < trace.losses[0]


PROGRAMS = {  # a correct change, and a mistake
    "char_gpt": ("attention", ("flash", "manual"), "scale=1.03"),
    "lightning_rings": ("normalise", ("layer", "by_hand"), "momentum=0.92"),
    "hugging_face_llama": ("attention", ("sdpa", "eager"), "rope_theta=9000.0"),
}


def recorded_program(name: str, folder: Path) -> Path:
    """A program of examples/ with the lines that the page adds to it, of which there are two."""
    source = (PROJECT / "examples" / f"{name}.py").read_text()
    (diff,) = re.findall(rf"^```diff\n--- examples/{name}\.py\n(.*?)^```$", OWN_TRAINING, re.MULTILINE | re.DOTALL)
    assert diff.count("\n+") == 2
    for hunk in filter(None, diff.split("@@\n")):
        lines = hunk.splitlines()
        before, after = ("\n".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
        assert source.count(before) == 1
        source = source.replace(before, after)
    program = folder / "examples" / f"{name}.py"
    program.parent.mkdir()
    program.write_text(source.replace("Path(__file__).parents[1]", repr(PROJECT)).replace("PosixPath", "Path"))
    return program


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_others_is_recorded_by_two_lines_and_judged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, (setting, (theirs, ours), mistake) = recorded_program(name, tmp_path), PROGRAMS[name]
    monkeypatch.chdir(tmp_path)
    runs = {f"{theirs}_{nudge}": [f"{setting}={theirs}", f"nudge={nudge}"] for nudge in (0, 1, 2)}
    runs |= {ours: [f"{setting}={ours}"], "mistake": [f"{setting}={theirs}", mistake]}
    for folder, arguments in runs.items():
        monkeypatch.setattr("sys.argv", [program.name, f"out_dir=runs/{folder}", *arguments])
        runpy.run_path(str(program), run_name="__main__")
    references = [f"runs/{theirs}_{nudge}" for nudge in (0, 1, 2)]
    same = compare_py("--by", setting, "--reference", theirs, *references, f"runs/{ours}")
    assert (same.returncode, "Yes: " in same.stdout) == (0, True), same
    key, _, value = mistake.partition("=")
    default = {"scale": "1.0", "momentum": "0.9", "rope_theta": "10000.0"}[key]
    different = compare_py("--by", key, "--reference", default, *references, "runs/mistake")
    assert (different.returncode, f"{key}={value} differs by" in different.stdout) == (1, True), different


@pytest.mark.slow
def test_the_transformer_is_judged_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, script), (_, _, _, *compare) = commands("--by variant")
    assert PROJECT / script == Path(transformer.__file__)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script])
    monkeypatch.setattr(transformer, "STEPS", 8)
    transformer.main()
    assert compare_py(*compare, "--output", "comparison").returncode == 1
    verdicts = {name: figures["verdict"] for name, figures in judged(tmp_path / "comparison").items()}
    if "linear" in transformer.VARIANTS:  # which is PyTorch's
        assert verdicts.pop("linear") in ("same within rounding", "bitwise identical")
    assert verdicts == {"fused": "same within rounding", "wrong-mask": "different", "per-sequence": "different"}
    assert "test loss" not in (tmp_path / "comparison" / "report.md").read_text(), "nothing was evaluated"


def by_ten_lines(folder: str, settings: dict[str, Any], nudge: int, loss: Loss) -> None:
    """Record a training by the ten lines of the page, with another folder and other settings."""

    def train_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = loss(model(x), y)
        for parameter, gradient in zip(model.parameters(), torch.autograd.grad(value, [*model.parameters()])):
            parameter.data -= 0.1 * gradient
        return value

    torch.manual_seed(1)
    model, loader = nn.Linear(8, 2).double(), islice(DataLoader(POINTS, 16, sampler=[*range(512)] * 7), 200)
    code = TEN_LINES.replace('"runs/mine_1"', repr(folder)).replace('{"kernel": "mine", "seed": 1}', repr(settings))
    exec(code, {"train_step": train_step, "fixed_inputs": X[:32], "nudge": nudge, "model": model, "loader": loader})


def test_two_commits_recorded_by_ten_lines_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page shows. Each is a loss here; that `PYTHONPATH=before python -P` imports its own code is Python's."""
    assert len([line for line in TEN_LINES.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    _, before, after, (_, _, _, *compare) = commands("--by commit")

    def record(line: list[str], loss: Loss) -> None:
        _, _, _, _, _, commit, _, *nudges, _, folder = line
        for nudge in nudges:
            by_ten_lines(f"{folder}/{commit}_{nudge}", {"commit": commit}, int(nudge), loss)

    record(before, cross_entropy)
    record(after, xent.cross_entropy)
    same = compare_py(*compare)
    assert same.returncode == 0
    assert "Yes: commit=after trains as before does, in float64, over one seed." in same.stdout
    Path("runs/after_0/trace.npz").unlink()
    record(after, temperature)
    assert compare_py(*compare).returncode == 1
