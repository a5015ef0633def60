"""The schema of configs/: every setting, its type, and what its value may be."""

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from xent.recording.errors import BadInput
from xent.training.datasets import Data
from xent.training.models import NORMS

GROUPS = ("loss", "model", "data", "optimizer")


class Precision(Enum):
    """The arithmetic of a run, or of its loss alone.

    Of a run, `bfloat16` is autocast: weights, data and the optimizer stay float32.
    """

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"  # of a loss alone


# What to do when the loss is NaN or infinite. Written so, as `continue` is a word of Python's.
OnNonfinite = Enum("OnNonfinite", ["stop", "continue"])


class FirstFilters(Enum):
    """What the filters of a model's first convolution are before the first step."""

    drawn = "drawn"
    cosines = "cosines"


@dataclass
class Model:
    """A function `(shape, classes, width) -> torch.nn.Module`, see xent/training/models.py; it gets `norm` if set."""

    _target_: str
    width: int
    norm: str | None = None

    def __post_init__(self) -> None:
        _at_least(1, "model.width", self.width)
        if self.norm not in (None, *NORMS):
            raise BadInput(f"model.norm={self.norm}: expected {', '.join(NORMS[:-1])} or {NORMS[-1]}")


@dataclass
class Optimizer:
    """A class of torch.optim. `lr` is the learning rate at the peak of the schedule."""

    _target_: str
    lr: float
    weight_decay: float


@dataclass
class SGD(Optimizer):
    momentum: float
    nesterov: bool
    fused: bool


@dataclass
class AdamW(Optimizer):
    betas: tuple[float, float]
    fused: bool


@dataclass
class Config:
    """Every setting of a run. What each means stands beside its value in configs/train.yaml."""

    loss: dict[str, Any]  # anyone's loss, so any arguments
    model: Model
    data: Data
    optimizer: Optimizer
    device: str
    precision: Precision
    loss_precision: Precision
    channels_last: bool
    compile: bool
    first_filters: FirstFilters
    warm_up: float
    seed: int
    nudge: int
    epochs: int
    max_steps: int | None
    batch_size: int
    processes: int
    accumulate: int
    timeout: int
    log_every: int
    test_every: int | None
    checkpoint_every: int | None
    on_nonfinite: OnNonfinite

    def __post_init__(self) -> None:
        counts = ("epochs", "max_steps", "batch_size", "processes", "accumulate", "timeout", "log_every")
        for key in (*counts, "test_every", "checkpoint_every"):
            _at_least(1, key, getattr(self, key))
        parts = self.processes * self.accumulate
        if self.batch_size < parts:
            raise BadInput(f"batch_size={self.batch_size}: expected at least {parts}, for processes times accumulate")
        if self.precision is Precision.float16:
            raise BadInput("precision=float16: expected float32, float64 or bfloat16; loss_precision may be float16")
        if not 0 < self.warm_up < 1:
            raise BadInput(f"warm_up={self.warm_up}: expected a part of the steps, more than 0 and less than 1")
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"seed={self.seed}: expected a whole number from 0 to 2**63 - 1")
        if not 0 <= self.nudge < 2**63:
            raise BadInput(f"nudge={self.nudge}: expected a whole number from 0, which leaves the weights alone")


def _at_least(least: int, key: str, value: int | None) -> None:
    if value is not None and value < least:
        raise BadInput(f"{key}={value}: expected a whole number of at least {least}")


def validated(cfg: DictConfig) -> Config:
    """The composed configuration as a `Config`. BadInput if a value is missing, out of its range, or no setting."""
    nodes = {"": cfg, "model.": cfg.model, "data.": cfg.data, "optimizer.": cfg.optimizer}
    for prefix, node in nodes.items():
        schema: Any = OmegaConf.get_type(node)
        known = [field.name for field in fields(schema)]
        for key in node:
            if key not in known:  # Hydra lets + add any
                choices = ", ".join(prefix + name for name in known)
                raise BadInput(f"{prefix}{key} is not a setting: expected one of {choices}")
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        raise BadInput(f"{error.full_key} is not set: give it as {error.full_key}=...") from error
    assert isinstance(config, Config)
    return config
