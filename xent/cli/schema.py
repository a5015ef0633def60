"""The schema of configs/: every setting, its type, and the values that it may have."""

import re
from dataclasses import dataclass, fields
from difflib import get_close_matches
from enum import Enum
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from xent.recording.errors import BadInput
from xent.recording.settings import flat_settings
from xent.training.datasets import Data

MAX_TIMEOUT = 7 * 24 * 3600
GROUPS = ("loss", "model", "data", "optimizer")


# The precision of a run, or of its loss alone. For a run, `bfloat16` is autocast: weights, data and the optimizer stay
# in float32. `float16` is for a loss alone.
Precision = Enum("Precision", ["float32", "float64", "bfloat16", "float16"])
# What to do at a non-finite loss. Written as a call, since `continue` is a keyword of Python.
OnNonfinite = Enum("OnNonfinite", ["stop", "continue"])


@dataclass
class Config:
    """Every setting of a run. Its meaning stands beside its value in configs/train.yaml.

    Attributes:
        loss: a class or function and its arguments: anyone's loss, so any arguments.
        model: a function `(shape, classes, width) -> torch.nn.Module` and its arguments.
        optimizer: a class of torch.optim and its arguments; `lr` is the learning rate at the peak of the schedule.

    Raises:
        BadInput: a value is out of its range.
    """

    loss: dict[str, Any]
    model: dict[str, Any]
    data: Data
    optimizer: dict[str, Any]
    device: str
    threads: int | None
    precision: Precision
    loss_precision: Precision
    channels_last: bool
    compile: bool
    seed: int
    nudge: int
    where: Any  # int, list[int] or None
    epochs: int
    max_steps: int | None
    batch_size: int
    accumulate: int
    timeout: int
    log_every: int
    test_every: int | None
    checkpoint_every: int | None
    on_nonfinite: OnNonfinite

    def __post_init__(self) -> None:
        counts = [key for key, of_type in get_type_hints(Config).items() if of_type in (int, int | None)]
        numbers = {key: getattr(self, key) for key in set(counts) - {"seed", "nudge"}}
        for key, value in (numbers | {"model.width": self.model.get("width")}).items():
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise BadInput(f"{key}={value}: expected a whole number of at least 1")
        if not isinstance(lr := self.optimizer.get("lr", 0.0), int | float):
            raise BadInput(f"optimizer.lr={lr}: expected a number")
        if self.timeout > MAX_TIMEOUT:
            raise BadInput(f"timeout={self.timeout}: expected at most {MAX_TIMEOUT} seconds, a week")
        if self.precision is Precision.float16:
            raise BadInput("precision=float16: expected float32, float64 or bfloat16; loss_precision may be float16")
        for key, value in {"seed": self.seed, "nudge": self.nudge}.items():
            if not 0 <= value < 2**63:
                raise BadInput(f"{key}={value}: expected a whole number from 0 to 2**63 - 1")


def not_a_setting(key: str, known: list[str]) -> str:
    """Say that there is no such setting, and which of the known ones was perhaps meant."""
    group, _, name = key.rpartition(".")
    top = dict.fromkeys(one.partition(".")[0] for one in known)
    of_group = [one for one in known if group and one.startswith(f"{group}.")]
    near = nearest(name, of_group or [*top, *known])
    if near:
        return f"{key} is not a setting: did you mean {' or '.join(near)}?"
    if group in ("loss", "model", "optimizer"):
        return f"{key} is not set: to add an argument, write +{key}=..."
    return f"{key} is not a setting: expected one of {', '.join(top)}"


def nearest(name: str, known: list[str]) -> list[str]:
    """Those of the dotted or slashed names whose last part is most like a name."""
    last = [re.split(r"[./]", one)[-1] for one in known]
    close = get_close_matches(name, last, 1)
    return [one for one, its_last in dict(zip(known, last)).items() if its_last in close]


def validated(cfg: DictConfig) -> Config:
    """Convert the composed configuration to a `Config`.

    Raises:
        BadInput: a value is missing or out of its range, or a key is no setting.
    """
    known = [field.name for field in fields(Config)]
    for key in map(str, cfg):
        if key not in known:  # Hydra lets + add any
            container: Any = OmegaConf.to_container(cfg)
            raise BadInput(not_a_setting(key, [name for name in flat_settings(container) if name != key]))
    if missing := [key for key in known if key not in cfg]:  # and ~ take any away
        raise BadInput(f"{missing[0]} is not set: give it as {missing[0]}=...")
    try:
        return cast(Config, OmegaConf.to_object(cfg))
    except MissingMandatoryValue as error:
        raise BadInput(f"{error.full_key} is not set: give it as {error.full_key}=...") from error
