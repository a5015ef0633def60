"""The examples: a transformer, and the trainings of two libraries, recorded and judged."""

import os
import re
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import xent
from examples import transformer
from tests.helpers.commands import PROJECT, command, compare_py
from tests.helpers.runs import judged
from xent.recording import Recorder
from xent.testing import assert_same_training

PAGE = (PROJECT / "docs" / "own-training.md").read_text()


def commands(word: str) -> list[list[str]]:
    """The lines of the block of commands that a word stands in, as words."""
    (block,) = [code for code in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if word in code]
    return [line.split() for line in block.splitlines()]


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


RECORD = """
import sys, torch
from model_of_commit import distance
from xent.recording import Recorder
_, commit, _, *nudges, _, folder = sys.argv[1:]
for nudge in map(int, nudges):
    run = Recorder(f"{folder}/{commit}_{nudge}", settings={"commit": commit}, nudge=nudge, steps=8)
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8, bias=False).double()
    run.nudge(model)
    for _ in range(run.steps):
        x = run.reorder(torch.randn(16, 8).double())
        loss = distance(model(x), x)
        model.weight.data -= 0.5 * torch.autograd.grad(loss, model.weight)[0]
        run.step(loss, probe=lambda: model(torch.eye(8).double()))
    run.finish()
"""


def test_two_commits_are_compared_as_the_page_shows(tmp_path: Path) -> None:
    _, before, after, (_, _, _, *compare, runs) = commands("--by commit")
    (tmp_path / "record.py").write_text(RECORD)
    (tmp_path / "before").mkdir()

    def record(commit: Path, distance: str, variable: str, _: str, *arguments: str) -> None:
        (commit / "model_of_commit.py").write_text(f"def distance(a, b):\n    return {distance}\n")
        path = f"{tmp_path / variable.partition('=')[2]}{os.pathsep}{PROJECT}"
        result = command(*arguments, cwd=tmp_path, PYTHONPATH=path)
        assert result.returncode == 0, result.stderr

    record(tmp_path / "before", "(a - b).pow(2).mean()", *before)
    record(tmp_path, "(b - a).square().mean()", *after)
    assert compare_py(*compare, tmp_path / runs).returncode == 0
    (tmp_path / runs / "after_0" / "trace.npz").unlink()
    record(tmp_path, "(a - b).square().sum() / 127", *after)
    assert compare_py(*compare, tmp_path / runs).returncode == 1


X = torch.randn(512, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
POINTS = TensorDataset(X, (X[:, 0] + X[:, 1] > 0).long())


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).double()


def by_lightning(recorder: Recorder, loss: nn.Module, folder: Path) -> None:
    from pytorch_lightning import LightningModule, Trainer

    from examples.lightning_callback import Record

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)  # type: ignore[no-any-return]

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return loss(self(batch[0]), batch[1])  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    options = {"callbacks": [Record(recorder, X[:32])], "accelerator": "cpu", "default_root_dir": folder}
    trainer = Trainer(max_steps=recorder.steps, logger=False, **options, **quiet)
    trainer.fit(Module(), DataLoader(POINTS, 16, shuffle=True))


def by_transformers(recorder: Recorder, loss: nn.Module, folder: Path) -> None:
    from transformers import TrainingArguments

    from examples.hugging_face_trainer import RecordedTrainer

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.network(x)
            return {"logits": logits} if labels is None else {"loss": loss(logits, labels), "logits": logits}

    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    options = {"max_steps": recorder.steps, "learning_rate": 0.01, "seed": recorder.seed, "max_grad_norm": 0.0}
    arguments = TrainingArguments(str(folder), use_cpu=True, **options, **quiet)
    rows = [{"x": x, "labels": label} for x, label in POINTS]
    RecordedTrainer(recorder, {"x": X[:32]}, model=Model(), args=arguments, train_dataset=rows).train()


@pytest.mark.extra
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
        for parameter, gradient in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()])):
            parameter.data -= 0.1 * gradient
        return loss

    names = {"train_step": train_step, "fixed_inputs": X[:32]}
    for kernel, nudge in (("torch", 0), ("torch", 1), ("torch", 2), ("mine", 0)):
        torch.manual_seed(1)
        model, loader = nn.Linear(8, 2).double(), islice(DataLoader(POINTS, 16, sampler=[*range(512)] * 7), 200)
        code = ten_lines.replace("runs/mine_1", f"runs/{kernel}_{nudge}").replace('"mine"', f'"{kernel}"')
        exec(code, names | {"nudge": nudge, "model": model, "loader": loader})
    result = compare_py("--by", "kernel", "--reference", "torch", *Path("runs").iterdir())
    assert result.returncode == 0, result.stderr
    assert "Yes: kernel=mine trains as torch does, in float64, over one seed." in result.stdout
