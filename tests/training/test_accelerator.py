"""A training on another device than the CPU: a GPU, or where there is none one made for tests, with the same bits."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.accelerators import Operations, waits
from tests.helpers.commands import run_of, small, train_py, trained
from tests.helpers.published_files import shorten_mnist
from tests.helpers.runs import differences, judged
from tests.training.test_checkpoint import killed_at
from train import train
from xent.cli.build import build
from xent.recording.device import widest_float
from xent.recording.errors import Stopped
from xent.recording.nudge import nudge_weights
from xent.recording.streams import stream
from xent.training.datasets import load
from xent.training.device import choose_device
from xent.training.loop import fit
from xent.verdict.floor import bitwise_identical, output_gaps

pytestmark = pytest.mark.accelerator
SMALL = {"model.width": 8, "max_steps": 12, "log_every": 5, "precision": "float64"}


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_mnist(monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mlp", "loss": "torch", "nudge": 1},
        {"model": "mlp", "loss": "article", "loss_precision": "float32", "nudge": 1},
        {"model": "cnn", "loss": "scratch", "data.crop_padding": 2, "data.flip": "true"},
        {"model": "cnn", "loss": "fused", "accumulate": 3, "model.norm": "group"},
        {"model": "resnet", "loss": "torch", "model.width": 2},
    ],
    ids=lambda changes: f"{changes['model']}-{changes['loss']}",
)
def test_a_run_is_that_of_the_cpu(changes: dict[str, object], accelerator: str, tmp_path: Path) -> None:
    settings = small(**SMALL | changes)
    here, there = (trained(tmp_path / device, *settings, f"device={device}") for device in ("cpu", accelerator))
    if accelerator == "second" and changes["loss"] in ("torch", "article"):  # ours look at the numbers on a CPU alone
        assert bitwise_identical(here, there)
    assert max(output_gaps(there, here).values()) < (1e-4 if "loss_precision" in changes else 1e-10)
    assert there.tests[12] == pytest.approx(here.tests[12])
    assert all(sums == pytest.approx(here.fingerprints[name]) for name, sums in there.fingerprints.items())
    assert there.settings["device"] == f"{accelerator}:0"
    assert there.settings["machine.processor"] != here.settings["machine.processor"]


def test_auto_takes_it_and_says_so(accelerator: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trained(tmp_path, *small(device="auto"))
    assert f"device={accelerator}:0: training for" in capsys.readouterr().out
    assert choose_device("cpu").type == "cpu"


def test_a_comparison_by_device(accelerator: str, tmp_path: Path) -> None:
    short = small(max_steps=16, nudge="0,1", precision="float32,float64", device=f"cpu,{accelerator}")
    result = train_py("-m", "+experiment=device", *short, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    verdicts = {name: figures["verdict"] for name, figures in judged(tmp_path / "comparison").items()}
    assert len(verdicts) == 2
    assert set(verdicts.values()) <= {"bitwise identical", "same within rounding", "coarser rounding"}, verdicts


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "article", "model": "cnn", "data.flip": "true"},
        {"loss": "scratch", "nudge": 1, "loss_precision": "float32"},
        {"loss": "fused", "accumulate": 4},
        *(
            {"loss": loss, "optimizer": "adamw", "loss_precision": "bfloat16"}
            for loss in ("torch", "scratch", "fused", "article")
        ),
    ],
    ids=lambda changes: ",".join(map(str, changes.values())),
)
def test_no_step_waits_that_is_not_logged(changes: dict[str, object], accelerator: str, tmp_path: Path) -> None:
    """And none has more operations for a larger batch, as a loop over its images would."""

    def fitted(steps: int, batch_size: int, counted: bool = False) -> tuple[list[str], dict[str, int]]:
        settings = SMALL | {"batch_size": batch_size, "max_steps": steps, "log_every": 1000}
        run = run_of(tmp_path, *small(**settings | changes), f"device={accelerator}")
        images, test_images = load(run.config.data, run.device, run.dtype)
        training = build(run, images)
        operations = Operations()
        with waits() as waited, operations if counted else nullcontext():  # counting may change what PyTorch does
            for _ in fit(training, images, test_images, run.config.log_every):
                pass
        return waited, operations.counted

    fitted(1, 32)  # what PyTorch sets up at first may wait
    (short, _), (longer, _) = fitted(9, 32), fitted(15, 32)
    assert sorted(longer) == sorted(short) != [], "those of the same probe steps, and of the end"
    assert fitted(15, 32, counted=True)[1] == fitted(15, 64, counted=True)[1]


def test_nudging_weights_takes_as_many_operations_for_wide_layers(accelerator: str) -> None:
    def operations(width: int) -> dict[str, int]:
        device = torch.device(accelerator)
        layer = nn.Linear(width, width, dtype=widest_float(device)).to(device)
        with Operations() as operations_there:
            nudge_weights(layer, stream("nudged weights", 1))
        return dict(operations_there.counted)

    assert operations(8) == operations(40)


def test_a_killed_run_resumes_bit_for_bit(accelerator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small(**SMALL | {"model": "cnn", "nudge": 1, "checkpoint_every": 5, "device": accelerator})
    trained(tmp_path / "whole", *settings)
    killed_at(10, monkeypatch, tmp_path / "killed", *settings)
    trained(tmp_path / "killed", *settings)
    assert differences(tmp_path / "killed", tmp_path / "whole") == []


@pytest.mark.parametrize("begun_on_the_cpu", [True, False])
def test_a_run_resumes_on_another_device_which_is_noted(
    begun_on_the_cpu: bool,
    accelerator: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, then = ("cpu", accelerator) if begun_on_the_cpu else (accelerator, "cpu")
    settings = small(**SMALL | {"checkpoint_every": 5})
    whole = trained(tmp_path / "whole", *settings, f"device={first}")
    killed_at(10, monkeypatch, tmp_path / "killed", *settings, f"device={first}")
    resumed = trained(tmp_path / "killed", *settings, f"device={then}")
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
