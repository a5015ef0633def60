"""The examples: a transformer, and the trainings of two libraries, recorded and judged."""

import itertools
import os
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import xent
from tests.helpers.commands import PROJECT, command, compare_py
from tests.helpers.runs import judged
from xent.recording import Recorder
from xent.testing import assert_same_training

PAGE = (PROJECT / "docs" / "own-training.md").read_text()


def commands(word: str) -> list[list[str]]:
    """The lines of the block of commands that a word stands in, as words."""
    (block,) = [each for each in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if word in each]
    return [line.split() for line in block.splitlines()]


@pytest.mark.slow
def test_the_transformer_is_judged_by_one_command(tmp_path: Path) -> None:
    (_, script), (_, *compare) = commands("--by variant")
    trained = command(str(PROJECT / script), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    result = command(*compare, "--output", "comparison", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    found = {name: each["verdict"] for name, each in judged(tmp_path / "comparison").items()}
    right = ("same within rounding", "bitwise identical")
    assert found.pop("fused") == "same within rounding"
    assert found.pop("linear", "bitwise identical") in right  # PyTorch's, where it has one
    assert found == {"wrong-mask": "different", "per-sequence": "different"}
    page = (tmp_path / "comparison" / "report.md").read_text()
    assert "| fused | same within rounding |" in page
    assert "test loss" not in page, "nothing was evaluated"


RECORD = """
import argparse, torch, model_of_commit
from xent.recording import Recorder
parser = argparse.ArgumentParser()
parser.add_argument("--commit"), parser.add_argument("--nudges", nargs="+", type=int), parser.add_argument("--into")
given = parser.parse_args()
for nudge in given.nudges:
    torch.manual_seed(0)
    run = Recorder(f"{given.into}/{given.commit}_{nudge}", settings={"commit": given.commit}, nudge=nudge, steps=40)
    model = torch.nn.Linear(8, 8).double()
    run.nudge(model)
    for _ in range(run.steps):
        x = run.reorder(torch.randn(16, 8, dtype=torch.float64))
        loss = model_of_commit.distance(model(x), x)
        loss.backward()
        model_of_commit.descend(model)
        run.step(loss, probe=lambda: model(torch.eye(8).double()))
    run.finish()
"""
MODEL = """
def distance(a, b):
    return {distance}
def descend(model):
    for parameter in model.parameters():
        parameter.data -= 0.5 * parameter.grad
        parameter.grad = None
"""


@pytest.mark.parametrize(
    ("after", "exits_with"),
    [("(b - a).square().mean()", 0), ("(a - b).square().sum() / 127", 1)],
    ids=["same", "wrong"],
)
def test_two_commits_are_compared_as_the_page_shows(after: str, exits_with: int, tmp_path: Path) -> None:
    (_, *_), *recordings, (_, *compare) = commands("--by commit")
    (tmp_path / "record.py").write_text(RECORD)
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "model_of_commit.py").write_text(MODEL.format(distance="(a - b).pow(2).mean()"))
    (tmp_path / "model_of_commit.py").write_text(MODEL.format(distance=after))
    for variable, _, *arguments in recordings:
        path = f"{tmp_path / variable.partition('=')[2]}{os.pathsep}{PROJECT}"
        recorded = command(*arguments, cwd=tmp_path, PYTHONPATH=path)
        assert recorded.returncode == 0, recorded.stderr
    result = command(*compare, cwd=tmp_path)
    assert result.returncode == exits_with, result.stdout + result.stderr


class Noise(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Points that a linear map tells apart."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(8, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        return x, (x[0] + x[1] > 0).long()


FIXED = torch.stack([Noise()[i][0] for i in range(1000, 1032)])


def by_lightning(recorder: Recorder, loss: nn.Module, folder: Path) -> None:
    lightning = pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning, of the extra dev")
    from examples.lightning_callback import Record

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return loss(self(batch[0]), batch[1])  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        max_steps=recorder.steps,
        callbacks=[Record(recorder, FIXED)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(Noise(), 16, shuffle=True))


def by_transformers(recorder: Recorder, loss: nn.Module, folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    pytest.importorskip("accelerate", reason="needs accelerate, of the extra dev")
    from examples.hugging_face_trainer import RecordedTrainer

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).double()

        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.layers(x)
            return {"logits": logits} if labels is None else {"loss": loss(logits, labels), "logits": logits}

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=recorder.steps,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        seed=recorder.seed,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_grad_norm=0.0,
    )
    rows = [dict(zip(("x", "labels"), Noise()[i])) for i in range(len(Noise()))]
    RecordedTrainer(recorder, {"x": FIXED}, model=Model(), args=arguments, train_dataset=rows).train()


@pytest.mark.slow
@pytest.mark.parametrize("library", [by_lightning, by_transformers])
def test_the_loop_of_a_library_is_recorded(library, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def train(recorder: Recorder, loss: nn.Module) -> None:
        library(recorder, loss, tmp_path)

    reference = partial(train, loss=nn.CrossEntropyLoss())
    assert_same_training(partial(train, loss=xent.FusedCrossEntropyLoss()), reference, steps=40, nudges=2)
    smoothed = partial(train, loss=nn.CrossEntropyLoss(label_smoothing=1e-6))
    with pytest.raises(AssertionError, match="training is different from training with the reference"):
        assert_same_training(smoothed, reference, steps=40, nudges=2)


def test_the_ten_lines_of_the_page_record_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_lines = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    assert len([line for line in ten_lines.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)

    def train_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        loss = (xent.fused_cross_entropy if kernel == "mine" else F.cross_entropy)(model(x), y)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        return loss

    for kernel, nudge in (("torch", 0), ("torch", 1), ("torch", 2), ("mine", 0)):
        torch.manual_seed(1)
        model = nn.Linear(8, 2).double()
        loader = torch.utils.data.DataLoader(Noise(), 16, sampler=[*range(512)] * 7)
        loader = itertools.islice(loader, 200)
        run = ten_lines.replace("runs/mine_1", f"runs/{kernel}_{nudge}").replace('"mine"', f'"{kernel}"')
        exec(run, {"nudge": nudge, "model": model, "loader": loader, "train_step": train_step, "fixed_inputs": FIXED})
    compare = ("--by", "kernel", "--reference", "torch")
    result = compare_py(*compare, *(tmp_path / "runs").iterdir())
    assert result.returncode == 0, result.stderr
    assert "Yes: kernel=mine trains as torch does, in float64, over one seed." in result.stdout
    without = compare_py(*compare, tmp_path / "runs" / "torch_0", tmp_path / "runs" / "mine_0")
    assert without.returncode == 2
    advice = "there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed"
    assert f"Not known: {advice}." in without.stdout.splitlines()
