import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.accelerators import Operations, waits
from tests.helpers.commands import run_of, small, train_py, trained
from tests.helpers.drop_ins import FUNCTIONS
from tests.helpers.published_files import shorten_mnist
from tests.helpers.runs import differences, judged
from tests.training.test_checkpoint import killed_at
from train import train
from xent.cli.build import build
from xent.recording.errors import Stopped
from xent.training.datasets import load
from xent.training.device import choose_device
from xent.training.loop import fit
from xent.verdict.floor import bitwise_identical, output_gaps

pytestmark = pytest.mark.accelerator
Capture = pytest.CaptureFixture[str]
SMALL = {"model.width": 8, "max_steps": 12, "log_every": 5, "precision": "float64"}


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_mnist(monkeypatch)


RUNS: list[dict[str, Any]] = [
    {"model": "mlp", "loss": "torch", "nudge": 1},
    {"model": "mlp", "loss": "article", "loss_precision": "float32", "nudge": 1},
    {"model": "cnn", "loss": "scratch", "data.crop_padding": 2, "data.flip": "true"},
    {"model": "cnn", "loss": "fused", "accumulate": 3, "model.norm": "group"},
    {"model": "resnet", "loss": "torch", "model.width": 2},
]
STEPS: list[dict[str, Any]] = [
    {"loss": "article", "model": "cnn", "data.flip": "true"},
    {"loss": "scratch", "nudge": 1, "loss_precision": "float32"},
    {"loss": "fused", "accumulate": 4},
    *({"optimizer": "adamw", "loss_precision": "bfloat16", "loss": loss} for loss in ("torch", *FUNCTIONS, "article")),
]


@pytest.mark.parametrize("changes", RUNS, ids=str)
def test_a_run_is_that_of_the_cpu(changes: Any, accelerator: str, tmp_path: Path, capsys: Capture) -> None:
    settings = small(**SMALL | changes)
    here, there = (trained(tmp_path / device, *settings, f"device={device}") for device in ("cpu", "auto"))
    assert f"device={accelerator}:0: training for" in capsys.readouterr().out
    if accelerator == "second" and changes["loss"] in ("torch", "article"):  # ours look at the numbers on a CPU alone
        assert bitwise_identical(here, there)
    assert max(output_gaps(there, here).values()) < (1e-4 if "loss_precision" in changes else 1e-10)
    assert there.tests[12] == pytest.approx(here.tests[12])
    assert all(sums == pytest.approx(here.fingerprints[name]) for name, sums in there.fingerprints.items())
    assert there.settings["device"] == f"{accelerator}:0"
    assert there.settings["machine.processor"] != here.settings["machine.processor"]


def test_a_comparison_by_device(accelerator: str, tmp_path: Path) -> None:
    short = small(max_steps=16, nudge="0,1", precision="float32,float64", device=f"cpu,{accelerator}")
    result = train_py("-m", "+experiment=device", *short, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    verdicts = [figures["verdict"] for figures in judged(tmp_path / "comparison").values()]
    assert len(verdicts) == 2 and {*verdicts} <= {"bitwise identical", "same within rounding", "coarser rounding"}


@pytest.mark.parametrize("changes", STEPS, ids=str)
def test_no_step_waits_that_is_not_logged(changes: Any, accelerator: str, tmp_path: Path) -> None:
    """And neither nudge nor steps have more operations for larger batches and wider layers, as a loop would."""

    def fitted(steps: int, size: int = 8, counted: bool = False) -> tuple[list[str], dict[str, int]]:
        sizes = {"batch_size": 4 * size, "model.width": size, "max_steps": steps, "log_every": 1000}
        run = run_of(tmp_path, *small(**SMALL | sizes | changes), f"device={accelerator}")
        images, test_images = load(run.config.data, run.device, run.dtype)
        operations = Operations()
        with waits() as waited, operations if counted else nullcontext():  # counting may change what PyTorch does
            list(fit(build(run, images), images, test_images, run.config.log_every))
        return waited, operations.counted

    fitted(1)  # what PyTorch sets up at first may wait
    (short, _), (longer, _) = fitted(9), fitted(15)
    assert sorted(longer) == sorted(short) != [], "those of the same probe steps, and of the end"
    assert fitted(15, counted=True)[1] == fitted(15, size=16, counted=True)[1]


def test_a_run_resumes_bit_for_bit_and_notes_another_device(accelerator: str, tmp_path: Path, capsys: Capture) -> None:
    settings = small(**SMALL | {"model": "cnn", "nudge": 1, "checkpoint_every": 5})
    for first, then in ((accelerator, accelerator), ("cpu", accelerator), (accelerator, "cpu")):
        folder, alone = tmp_path / f"{first} {then}", tmp_path / f"{first} {then} whole"
        whole = trained(alone, *settings, f"device={first}")
        killed_at(10, folder, *settings, f"device={first}")
        resumed = trained(folder, *settings, f"device={then}")
        if first == then:
            assert differences(folder, alone) == []
            continue
        before, now = (str(choose_device(name)) for name in (first, then))
        says = rf"device={now}, with device={before}.* before: resuming after step 5 of 12"
        assert re.search(says, capsys.readouterr().out)
        assert (resumed.settings["device"], [old["device"] for old in resumed.settings["before"]]) == (now, [before])
        assert max(output_gaps(resumed, whole).values()) < 1e-10


def test_a_loss_that_is_no_number_is_seen_when_logged(accelerator: str, tmp_path: Path) -> None:
    settings = small(**{"optimizer.lr": 1e30, "log_every": 3, "device": accelerator})
    with pytest.raises(Stopped, match="the loss is nan at step 2, seen at step 3: "):
        train(run_of(tmp_path, *settings))
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=True)
    assert {value.device.type for value in saved.values() if isinstance(value, torch.Tensor)} == {"cpu"}
