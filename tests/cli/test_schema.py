from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from torch import nn

from tests.helpers.commands import PROJECT, composed, run_of
from xent.cli.compose import IMPOSTORS, run_name
from xent.cli.schema import GROUPS, validated
from xent.recording.errors import BadInput

EXPERIMENTS = [file.stem for file in sorted((PROJECT / "configs" / "experiment").glob("*.yaml"))]
CHOICES = [(group, file.stem) for group in GROUPS for file in sorted((PROJECT / "configs" / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_file_composes_and_instantiates(group: str, choice: str) -> None:
    custom = ["loss._target_=torch.nn.CrossEntropyLoss"] if choice == "custom" else []
    cfg, hydra = composed(f"{group}={choice}", *custom)
    checked = validated(cfg)
    assert hydra.runtime.choices[group] == choice
    model, loss = instantiate(checked.model, (1, 28, 28), 10), instantiate(checked.loss)
    optimizer = instantiate(checked.optimizer, model.parameters())
    assert isinstance(model, nn.Module) and isinstance(loss, nn.Module)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert len(checked.data.mean) == len(checked.data.std) in (1, 3)


def test_a_wrong_type_or_an_unknown_key_is_refused_when_composed() -> None:
    unknown = ["epochz=2", "optimizer.depth=3", "model.depth=3", "processes=2"]
    for override in ("epochs=two", "precision=float8", *unknown):
        with pytest.raises(HydraException):
            composed(override)


COUNTS = ["epochs=0", "max_steps=0", "batch_size=0", "log_every=-1", "model.width=0", "accumulate=0", "timeout=0"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *((count, f"{count}: expected a whole number of at least 1") for count in COUNTS),
        ("seed=-1", "seed=-1: expected a whole number from 0 to"),
        (f"seed={2**63}", f"seed={2**63}: expected"),
        ("precision=float16", "precision=float16: expected float32, float64 or bfloat16; loss_precision may be"),
        ("data.crop_padding=-1", "data.crop_padding=-1: expected"),
        ("data.std=[0]", r"data.std=\[0.0\]: expected positive numbers"),
        ("loss=custom", "loss._target_ is not set: give it as loss._target_=..."),
        ("+speed=3", "speed is not a setting: expected one of loss, "),
    ],
)
def test_what_a_type_cannot_say_is_checked(override: str, message: str) -> None:
    cfg, _ = composed(override)
    with pytest.raises(BadInput, match=message):
        validated(cfg)


def test_settings_are_flat_and_a_group_stands_for_its_choice(tmp_path: Path) -> None:
    settings = run_of(tmp_path, "loss=scratch", "precision=float64").settings
    loss = {"loss": "scratch", "loss._target_": "xent.CrossEntropyLossFromScratch"}
    types = {"precision": "float64", "loss_precision": "float64"}
    others = {"optimizer.momentum": 0.9, "max_steps": None, "data.mean": [0.1307], "processes": 1}
    assert settings == settings | loss | types | others | {"machine.threads": torch.get_num_threads()}


def test_what_a_run_does_not_depend_on_is_none_of_its_settings(tmp_path: Path) -> None:
    numbers = ["log_every=3", "test_every=3", "checkpoint_every=3", "timeout=3"]
    run = run_of(tmp_path, *numbers, "on_nonfinite=continue", "data.root=elsewhere")
    assert run.settings == run_of(tmp_path).settings


def test_a_run_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        run_of(tmp_path).folder = tmp_path / "other"  # type: ignore[misc]


def test_a_run_is_named_by_what_its_command_line_changed() -> None:
    assert run_name(["loss=scratch", "+seed=1"]) == "loss=scratch,seed=1"
    assert run_name([]) == "defaults"
    assert run_name(["data.root=/a/b"]) == "data.root=%2Fa%2Fb"
    long = [f"data.root={'ä' * 300}"]
    assert len(Path(run_name(long)).name.encode()) < 200
    assert run_name(long) != run_name([*long, "seed=1"])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    cfg, hydra = composed(f"+experiment={experiment}")
    others = {"cifar10": "resnet", "layout": "cnn", "arithmetic": "cnn", "fast": "cnn"}
    assert hydra.runtime.choices["model"] == others.get(experiment, "mlp")
    validated(cfg)


def test_the_experiment_with_impostors_trains_every_one() -> None:
    _, hydra = composed("+experiment=impostors")
    swept = sorted(loss.strip() for loss in hydra.sweeper.params.loss.split(","))
    brought_out_by_parts_of_batches = {"impostor/mean_of_means"}
    assert swept == sorted({"torch", *IMPOSTORS} - brought_out_by_parts_of_batches)
