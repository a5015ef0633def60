"""What the lesson, docs/own-training.md and docs/where.md show is what is computed, recorded and judged now."""

import re
from collections.abc import Callable
from functools import partial
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
from xent.recording import Recorder
from xent.testing import assert_same_training
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


OWN_TRAINING = (DOCS / "own-training.md").read_text()
IN_A_TEST, TEN_LINES, *_ = re.findall(r"^```python\n(.*?)^```$", OWN_TRAINING, re.MULTILINE | re.DOTALL)
X = torch.randn(512, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
POINTS = TensorDataset(X, (X[:, 0] + X[:, 1] > 0).long())


def commands(word: str) -> list[list[str]]:
    """The lines of the block of commands that a word stands in, as words."""
    blocks = re.findall(r"^```console\n(.*?)^```$", OWN_TRAINING, re.MULTILINE | re.DOTALL)
    (block,) = [code for code in blocks if word in code]
    return [line.split() for line in block.splitlines()]


def test_the_lines_for_a_test_suite_pass_and_fail() -> None:
    class Model(nn.Sequential):
        def __init__(self, attention: nn.Module) -> None:
            super().__init__(nn.Linear(8, 8), attention, nn.Linear(8, 2))

    def train_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        loss = cross_entropy(model(x.float()), y)
        for weight, gradient in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()])):
            weight.data -= 0.1 * gradient
        return loss

    names = {"Model": Model, "train_step": train_step, "fixed_inputs": X[:32].float(), "mine": nn.SiLU()}
    names["batches"] = lambda steps: islice(DataLoader(POINTS, 16, shuffle=True), steps)
    code = IN_A_TEST.replace("steps=200", "steps=20")
    exec(code, names | {"theirs": nn.SiLU()})
    with pytest.raises(AssertionError, match="training is different"):
        exec(code, names | {"theirs": nn.GELU()})


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


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).double()


def by_lightning(recorder: Recorder, loss: nn.Module, folder: Path) -> None:
    from pytorch_lightning import LightningModule, Trainer

    from examples.lightning_callback import Record

    class Module(nn.Sequential, LightningModule):
        def training_step(self, batch: list[Tensor]) -> Tensor:
            return loss(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")} | {"logger": False}
    options = {"max_steps": recorder.steps, "accelerator": "cpu", "default_root_dir": folder}
    trainer = Trainer(callbacks=[Record(recorder, X[:32])], **options, **quiet)
    trainer.fit(Module(*network()), DataLoader(POINTS, 16, shuffle=True))


def by_transformers(recorder: Recorder, loss: nn.Module, folder: Path) -> None:
    from transformers import TrainingArguments

    from examples.hugging_face_trainer import RecordedTrainer

    class Model(nn.Sequential):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = super().forward(x)
            return {"logits": logits} if labels is None else {"loss": loss(logits, labels), "logits": logits}

    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    options = {"max_steps": recorder.steps, "learning_rate": 0.01, "seed": recorder.seed, "max_grad_norm": 0.0}
    arguments = TrainingArguments(str(folder), use_cpu=True, **options, **quiet)
    rows = [{"x": x, "labels": label} for x, label in POINTS]
    RecordedTrainer(recorder, {"x": X[:32]}, model=Model(*network()), args=arguments, train_dataset=rows).train()


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.parametrize("train", [by_lightning, by_transformers])
def test_the_loop_of_a_library_is_recorded(train: Callable[..., None], tmp_path: Path) -> None:
    losses = xent.FusedCrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=1e-6), nn.CrossEntropyLoss()
    right, wrong, reference = (partial(train, loss=loss, folder=tmp_path) for loss in losses)
    assert_same_training(right, reference, steps=40, nudges=2)
    with pytest.raises(AssertionError, match="training is different from training with the reference"):
        assert_same_training(wrong, reference, steps=40, nudges=2)
