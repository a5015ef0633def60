"""The schema of configs/, and the checks that need more than a type."""

from dataclasses import dataclass, field, fields
from enum import Enum
from hashlib import sha1
from math import inf
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from xent import impostors
from xent.errors import BadInput

CONFIGS = Path(__file__).parents[1] / "configs"
IMPOSTOR = "xent.impostors.Impostor"
NO_EFFECT = ("log_every", "checkpoint_every", "on_nonfinite", "data.root")  # settings that a run does not depend on
GROUPS = ("loss", "model", "data", "optimizer")


class Precision(Enum):
    """The arithmetic of a run. `bfloat16` is autocast: weights, data and the optimizer stay float32."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"


# What to do when the loss is NaN or infinite. Written so, as `continue` is a word of Python's.
OnNonfinite = Enum("OnNonfinite", ["stop", "continue"])


@dataclass
class Model:
    """A function `(shape, classes, width) -> torch.nn.Module`; see xent/models.py."""

    _target_: str = MISSING
    width: int = MISSING


@dataclass
class Data:
    """One of torchvision's data sets. `mean` and `std` are a channel's, of pixels between 0 and 1."""

    dataset: str = MISSING
    root: str = MISSING
    mean: list[float] = MISSING
    std: list[float] = MISSING
    crop_padding: int = 0
    flip: bool = False


@dataclass
class Optimizer:
    """A class of torch.optim. `lr` is the learning rate at the peak of the schedule."""

    _target_: str = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING


@dataclass
class SGD(Optimizer):
    momentum: float = MISSING
    nesterov: bool = MISSING
    fused: bool = MISSING


@dataclass
class AdamW(Optimizer):
    betas: tuple[float, float] = MISSING
    fused: bool = MISSING


@dataclass
class Config:
    """Every setting of a run. What each means stands beside its value in configs/train.yaml."""

    loss: dict[str, Any] = field(default_factory=dict)  # anyone's loss, so any arguments
    model: Model = MISSING
    data: Data = MISSING
    optimizer: Optimizer = MISSING
    device: str = MISSING
    precision: Precision = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING
    seed: int = MISSING
    nudge: int = MISSING
    epochs: int = MISSING
    max_steps: int | None = MISSING
    batch_size: int = MISSING
    log_every: int = MISSING
    checkpoint_every: int | None = MISSING
    on_nonfinite: OnNonfinite = MISSING


def register() -> None:
    """Make the schema, and the resolver that names a run's folder, known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="schema/optimizer", name="sgd", node=SGD)
    store.store(group="schema/optimizer", name="adamw", node=AdamW)
    for mistake in impostors.MISTAKES | impostors.MISTAKES_IN_IGNORING:
        store.store(group="loss/impostor", name=mistake, node={"_target_": IMPOSTOR, "mistake": mistake})
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def run_name(overrides: list[str]) -> str:
    """What a run's command line changed, as the name of a folder: `loss=scratch,seed=1`."""
    name = ",".join(override.lstrip("+") for override in overrides).replace("/", "%2F") or "defaults"
    if len(name.encode()) > 200:  # a file system takes 255 bytes
        name = f"{name[:40]}...{sha1(name.encode()).hexdigest()[:12]}"
    return name


def check(cfg: DictConfig) -> Config:
    """The composed configuration as a `Config`.

    Raises:
        BadInput: a value is missing or out of its range.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        raise BadInput(f"{error.full_key} is not set: give it as {error.full_key}=...") from error
    assert isinstance(config, Config)
    nodes: dict[str, Any] = {"": config, "model.": config.model, "data.": config.data, "optimizer.": config.optimizer}
    for prefix, node in nodes.items():
        known = [field.name for field in fields(node)]
        for key in vars(node):
            if key not in known:  # Hydra lets + add any
                choices = ", ".join(prefix + name for name in known)
                raise BadInput(f"{prefix}{key} is not a setting: expected one of {choices}")
    positive = {
        "epochs": config.epochs,
        "max_steps": config.max_steps,
        "batch_size": config.batch_size,
        "log_every": config.log_every,
        "checkpoint_every": config.checkpoint_every,
        "model.width": config.model.width,
    }
    for key, value in positive.items():
        if value is not None and value < 1:
            raise BadInput(f"{key}={value}: expected a whole number of at least 1")
    if not 0 <= config.seed < 2**63:
        raise BadInput(f"seed={config.seed}: expected a whole number from 0 to 2**63 - 1")
    if not 0 <= config.nudge < 2**63:
        raise BadInput(f"nudge={config.nudge}: expected a whole number from 0, which leaves the weights alone")
    if not all(0 < value < inf for value in config.data.std):
        raise BadInput(f"data.std={config.data.std}: expected positive numbers")
    if config.data.crop_padding < 0:
        raise BadInput(f"data.crop_padding={config.data.crop_padding}: expected a whole number of at least 0")
    return config


def own_target(choice: str) -> str | None:
    """The class that the choice of a loss stands for; of `custom`, none."""
    if choice.startswith("impostor/"):
        return IMPOSTOR
    config = OmegaConf.load(CONFIGS / "loss" / f"{choice}.yaml")
    assert isinstance(config, DictConfig)
    return None if OmegaConf.is_missing(config, "_target_") else config["_target_"]


def settings(cfg: DictConfig, choices: dict[str, str]) -> dict[str, Any]:
    """Every setting by its dotted name, a group's own name standing for its choice.

    Args:
        cfg: the composed configuration.
        choices: the choice of every group, as `{"loss": "scratch"}`.

    Returns:
        a flat dictionary of JSON values: `{"loss": "scratch", "optimizer.lr": 0.1, "seed": 0, ...}`.
    """
    flat: dict[str, Any] = {group: choices[group] for group in GROUPS}
    container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    for key, value in container.items():
        flat |= {f"{key!s}.{name}": inner for name, inner in value.items()} if key in GROUPS else {str(key): value}
    return flat
