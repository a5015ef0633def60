"""Compose a run from its configuration by Hydra."""

import inspect
import os
from dataclasses import dataclass, replace
from hashlib import sha1
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.utils import to_absolute_path
from joblib import cpu_count  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf

from xent.cli.schema import GROUPS, Config, Precision, validated
from xent.losses.impostors import MISTAKES
from xent.recording.device import has_float64
from xent.recording.errors import BadInput
from xent.recording.processes import launched
from xent.recording.settings import flat_settings, machine_settings
from xent.training.device import choose_device

CONFIGS = Path(__file__).parents[2] / "configs"
IMPOSTORS = {f"impostor/{name}": {"_target_": "xent.losses.impostors.Impostor", "mistake": name} for name in MISTAKES}
IMPOSTORS["impostor/mean_of_means"] = {"_target_": "xent.losses.impostors.MeanOfMeans"}
PYTORCHS_ARGUMENTS = inspect.signature(torch.nn.CrossEntropyLoss).parameters
# Settings that do not change what a run computes.
NO_EFFECT = ("log_every", "test_every", "checkpoint_every", "on_nonfinite", "data.root", "timeout", "threads")
PYTORCHS_THREADS = torch.get_num_threads()
MOST_AT_A_TIME = 8  # runs of a sweep, each of which takes up to a gigabyte


@dataclass(frozen=True)
class Run:
    """A run to be trained.

    Attributes:
        config: its configuration, checked.
        settings: everything that it depends on by dotted name, with the machine and the number of processes.
        overrides: the command line that it was composed from.
        folder: where it is recorded.
        is_swept: whether it is one of a sweep.
        threads: how many compute it on the CPU.
        dtype: of the weights and the data.
        loss_dtype: the type of the logits that the loss gets; None for the type that the model computes.
    """

    config: Config
    settings: dict[str, Any]
    overrides: list[str]
    folder: Path
    is_swept: bool
    device: torch.device
    threads: int
    dtype: torch.dtype
    loss_dtype: torch.dtype | None


def register() -> None:
    """Register the schema, the impostors and our resolvers with Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, node in IMPOSTORS.items():
        store.store(group="loss/impostor", name=name.partition("/")[2], node=node)
    OmegaConf.register_new_resolver("project", lambda: str(CONFIGS.parent), replace=True)
    OmegaConf.register_new_resolver("cores", lambda: min(cpu_count(), MOST_AT_A_TIME), replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("impostors", lambda: ",".join(f"impostor/{m}" for m in MISTAKES), replace=True)


def has_effect(override: str) -> bool:
    """Whether an override changes what a run computes, or on how many threads."""
    key = override.lstrip("+").partition("=")[0]
    return key == "threads" or key not in NO_EFFECT


def run_name(overrides: list[str]) -> str:
    """The folder name of a run: what its command line changed, `loss=scratch,seed=1`, but for what has no effect."""
    changed = (override.lstrip("+") for override in overrides if has_effect(override))
    name = ",".join(changed).replace("/", "%2F") or "defaults"
    if len(name.encode()) > 200:  # a file system takes 255 bytes
        name = f"{name[:40]}...{sha1(name.encode()).hexdigest()[:12]}"
    return name


def compose_run(cfg: DictConfig, hydra: HydraConf, folder: Path, is_swept: bool) -> Run:
    """Make the run that a configuration describes.

    Args:
        cfg: the configuration.
        hydra: Hydra's own configuration beside it.
        folder: where the run is recorded.
        is_swept: whether it is one of a sweep.

    Raises:
        BadInput: the run is not possible.
    """
    choices, overrides = hydra.runtime.choices, list(hydra.overrides.task)
    if not is_swept:
        _refuse_half_a_sweep(hydra)
    config = validated(cfg)
    loss = _own_loss(config.loss, hydra, is_swept)
    data = replace(config.data, root=to_absolute_path(os.path.expanduser(config.data.root)))
    config = replace(config, loss=loss, data=data)
    device = choose_device(config.device)
    if not has_float64(device) and Precision.float64 in (config.precision, config.loss_precision):
        raise BadInput(f"device={device.type}: it has no float64; train with device=cpu, or precision=float32")
    container: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    flat = {group: choices[group] for group in GROUPS} | flat_settings(container | {"loss": loss})
    settings = {key: value for key, value in flat.items() if key not in NO_EFFECT}
    settings |= {"processes": (launched() or (0, 1))[1], "device": str(device)} | machine_settings(device)
    threads = config.threads or min(PYTORCHS_THREADS, cpu_count())  # which are fewer under a container's limit
    settings["machine.threads"] = threads if device.type == "cpu" else 0
    dtype = torch.float64 if config.precision is Precision.float64 else torch.float32
    loss_dtype = getattr(torch, config.loss_precision.name) if config.loss_precision is not config.precision else None
    return Run(config, settings, overrides, folder, is_swept, device, threads, dtype, loss_dtype)


def _refuse_half_a_sweep(hydra: HydraConf) -> None:
    """Refuse a single run of an experiment that sweeps over settings which are not given.

    Raises:
        BadInput: the experiment needs -m.
    """
    keys = [override.partition("=")[0].lstrip("+~") for override in hydra.overrides.task]
    left = [key for key in hydra.sweeper.get("params") or {} if key.lstrip("+") not in keys]
    if left:
        experiment = " ".join(override for override in hydra.overrides.task if "experiment=" in override)
        expected = f"expected -m too, python train.py -m {experiment}"
        raise BadInput(f"{experiment} is a sweep over {', '.join(left)}: {expected}")


def _own_loss(loss: dict[str, Any], hydra: HydraConf, is_swept: bool) -> dict[str, Any]:
    """The settings of the loss, without those that a sweep means for loss=custom alone.

    In a sweep over several losses, Hydra gives `loss._target_=...` and its arguments to all of them. A loss that is not
    custom keeps its own `_target_`, and the arguments that it or PyTorch's loss has.

    Raises:
        BadInput: a single loss that is not custom got a `_target_`, or the file of a loss has none.
    """
    choice = hydra.runtime.choices["loss"]
    chosen = IMPOSTORS.get(choice, {})
    for source in hydra.runtime.config_sources:
        file = Path(source.path) / "loss" / f"{choice}.yaml"
        if source.schema == "file" and file.exists():
            chosen = yaml.safe_load(file.read_text()) or {}
            if "_target_" not in chosen:
                raise BadInput(f"{file} has no _target_: expected the name of a class or function, package.module.name")
            break
    if chosen.get("_target_", "???") == "???":
        return loss
    if not is_swept and loss["_target_"] != chosen["_target_"]:
        raise BadInput(f"loss._target_={loss['_target_']}: expected beside loss=custom, add that")
    known = {*chosen, *PYTORCHS_ARGUMENTS} if is_swept else {*loss}
    return {key: value for key, value in loss.items() if key in known} | {"_target_": chosen["_target_"]}


def write_configuration(run: Run) -> None:
    """Write the configuration into the run's folder, as Hydra would, but only once the folder is known to be free."""
    (run.folder / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.structured(run.config), run.folder / ".hydra" / "config.yaml")
    OmegaConf.save(run.overrides, run.folder / ".hydra" / "overrides.yaml")
