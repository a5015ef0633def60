"""A run that resumes is the run that never stopped: in this process, to the last bit."""

import os
import random
import signal
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.commands import run_of, small, trained
from tests.helpers.faulty_losses import NanOnce
from tests.helpers.runs import differences
from train import train
from xent.recording import Recorder
from xent.recording.errors import BadInput, Stopped
from xent.recording.trace import load
from xent.training import checkpoint
from xent.training.loop import Step, Training, fit


class Dropout(torch.nn.CrossEntropyLoss):
    """A loss that draws random numbers, and learns."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(input) * self.scale, target)


class Killed(BaseException):
    pass


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    """Train until the process would be killed, when a step was made and nothing of it was written."""

    def fit_and_die(*arguments: Any) -> Iterator[Step]:
        for made in fit(*arguments):
            if made.number >= step:
                raise Killed
            yield made

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("train.fit", fit_and_die)
        again(folder, *overrides)


def again(folder: Path, *overrides: str) -> None:
    train(run_of(folder, *overrides))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "cnn", "optimizer": "adamw", "precision": "float64"},
        {"model": "resnet", "model.width": 2, "batch_size": 16},
        {"precision": "bfloat16", "loss": "custom", "loss._target_": "tests.training.test_checkpoint.Dropout"},
        {"precision": "float64", "loss_precision": "float32", "nudge": 1},
    ],
    ids=str,
)
def test_a_killed_run_resumes_bit_for_bit(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = small(**{"max_steps": 12, "log_every": 2, "checkpoint_every": 5, "batch_size": 64, **settings})
    trained(tmp_path / "whole", *overrides)
    for step in (4, 6, 12):  # before the first checkpoint of a step, after it, and at the end
        killed_at(step, monkeypatch, tmp_path / "killed", *overrides)
    again(tmp_path / "killed", *overrides)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def test_it_resumes_across_epochs_with_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = small(max_steps=5, batch_size=30_000, log_every=1, **{"data.crop_padding": 2, "data.flip": "true"})
    trained(tmp_path / "whole", *overrides, "epochs=3")
    killed_at(3, monkeypatch, tmp_path / "killed", *overrides, "epochs=3")
    again(tmp_path / "killed", *overrides, "epochs=3")
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def test_ctrl_c_leaves_a_checkpoint_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(torch.nn.CrossEntropyLoss):
        steps = 0

        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            self.steps += input.requires_grad and len(target) > 4  # not those that only try the loss out
            if self.steps == 6:
                signal.raise_signal(signal.SIGINT)
            return super().forward(input, target)

    trained(tmp_path / "whole", *small())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("torch.nn.CrossEntropyLoss", Interrupting)
        again(tmp_path / "run", *small())
    saved = checkpoint.load(tmp_path / "run")
    assert saved is not None
    assert len(saved["recorder"]["losses"]) == 6
    again(tmp_path / "run", *small())
    assert differences(tmp_path / "whole", tmp_path / "run") == []


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", *small())
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    capsys.readouterr()
    again(tmp_path / "run", *small())
    assert capsys.readouterr().out == f"{os.path.relpath(tmp_path / 'run')} is finished, after 8 steps\n"
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


def test_more_epochs_resume_and_are_told_from_as_many_at_once(tmp_path: Path) -> None:
    overrides = ["model=mlp", "model.width=4", "batch_size=20000"]
    short = trained(tmp_path / "run", *overrides, "epochs=2")
    again(tmp_path / "run", *overrides, "epochs=3")
    grown = load(tmp_path / "run")
    assert torch.equal(grown.losses[:6], short.losses)
    assert (grown.step, list(grown.probes), list(grown.tests)) == (9, [0, 1, 2, 4, 8, 9], [3, 6, 9])
    assert grown.settings == short.settings | {"epochs": 3, "before": [{"epochs": 2}]}
    again(tmp_path / "run", *overrides, "epochs=4")
    assert load(tmp_path / "run").settings["before"] == [{"epochs": 2}, {"epochs": 3}]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=1", "seed=0, not 1"),
        ("epochs=1", "epochs=2, not 1"),
        ("max_steps=9", "max_steps=8, not 9"),
        ("loss=scratch", "loss=torch, not scratch, loss._target_=torch.nn.CrossEntropyLoss, not"),
    ],
)
def test_another_setting_is_refused_by_name(override: str, says: str, tmp_path: Path) -> None:
    trained(tmp_path / "run", *small())
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(BadInput, match=f"holds a run with {says}"):
        again(tmp_path / "run", *small(), override)
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


@pytest.mark.parametrize("override", ["log_every=3", "checkpoint_every=2", "on_nonfinite=continue"])
def test_a_setting_without_effect_may_change(override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "whole", *small())
    killed_at(8, monkeypatch, tmp_path / "run", *small())
    again(tmp_path / "run", *small(), override)
    assert torch.equal(load(tmp_path / "whole").losses, load(tmp_path / "run").losses)


def test_no_flipped_byte_of_a_checkpoint_passes(tmp_path: Path) -> None:
    trained(tmp_path / "run", *small(**{"model.width": 1}))
    file = tmp_path / "run" / "checkpoint.pt"
    (tmp_path / "run" / "checkpoint.previous.pt").unlink()
    content = file.read_bytes()
    draw = random.Random(0)
    ends = [0, len(content) - checkpoint.DIGEST, len(content) - 1]
    for at in [*ends, *(draw.randrange(len(content)) for _ in range(200))]:
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
        with pytest.raises(
            BadInput, match=r"checkpoint\.pt is damaged \(wrong checksum, or an older version\): train the run again"
        ):
            checkpoint.load(tmp_path / "run")


def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, *small(checkpoint_every=4))
    file = tmp_path / "checkpoint.pt"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    capsys.readouterr()
    saved = checkpoint.load(tmp_path)
    assert saved is not None and len(saved["recorder"]["losses"]) == 4
    reason = "is damaged (wrong checksum, or an older version)"
    consequence = "it is now checkpoint.damaged, going back to step 4, checkpoint.previous.pt"
    assert capsys.readouterr().err == f"{file} {reason}: {consequence}\n"
    assert not file.exists() and (tmp_path / "checkpoint.damaged").read_bytes() == content[:-1]


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, *small())
    file = tmp_path / "checkpoint.pt"
    (tmp_path / "checkpoint.previous.pt").unlink()
    saved = torch.load(BytesIO(file.read_bytes()[: -checkpoint.DIGEST]), weights_only=True)
    content = BytesIO()
    torch.save(saved | {"version": 1}, content)
    file.write_bytes(content.getvalue() + sha256(content.getvalue()).digest())
    with pytest.raises(BadInput, match=rf"checkpoint\.pt is of version 1, this xent reads {checkpoint.VERSION}"):
        checkpoint.load(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "run", *small())
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    model, loss = torch.nn.Linear(150, 150), torch.nn.CrossEntropyLoss()
    optimizer, recorder = torch.optim.SGD([torch.zeros(1)]), Recorder(steps=3)
    with pytest.raises(Stopped, match=r"cannot write .*checkpoint\.pt \(No space left on device\): make room there"):
        checkpoint.save(tmp_path / "run", Training(model, loss, optimizer, recorder, batch_size=1, seed=0), [])
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_loss_that_was_nan_before_a_run_resumed_does_not_keep_it_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NanOnce, "was_nan", False)
    custom = {"loss": "custom", "loss._target_": "tests.helpers.faulty_losses.NanOnce"}
    overrides = small(max_steps=12, checkpoint_every=5, **custom)
    killed_at(7, monkeypatch, tmp_path, *overrides, "on_nonfinite=continue")
    trace = trained(tmp_path, *overrides, "on_nonfinite=stop")
    assert trace.losses.isfinite().tolist() == [step != 3 for step in range(1, 13)]
    saved = checkpoint.load(tmp_path)
    assert saved is not None and len(saved["recorder"]["losses"]) == 12
