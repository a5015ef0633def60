"""A run as Hydra composes it: what is registered for that, and what is made of it."""

from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from xent.cli.losses import OF_PYTORCH
from xent.cli.paths import absolute
from xent.cli.schema import GROUPS, SGD, AdamW, Config, Precision, validated
from xent.cli.torchrun import began, started_together
from xent.losses.impostors import MISTAKES
from xent.recording.device import kind
from xent.recording.errors import BadInput
from xent.recording.machine import machine
from xent.recording.processes import is_first
from xent.recording.settings import flat_settings
from xent.training.device import prepare

CONFIGS = Path(__file__).parents[2] / "configs"
IMPOSTOR = "xent.losses.impostors.Impostor"
MEAN_OF_MEANS = "xent.losses.impostors.MeanOfMeans"
MAX_AT_ONCE = 8  # runs of a sweep, each of which takes up to a gigabyte


class Run(NamedTuple):
    """A run that is to be trained."""

    config: Config
    cfg: DictConfig  # what `config` was made of
    settings: dict[str, Any]  # all of it by dotted names, and the machine
    overrides: list[str]  # the command line that it was composed from
    folder: Path
    swept: bool  # whether it is one of a sweep
    device: torch.device
    dtype: torch.dtype
    loss_dtype: torch.dtype | None  # of the logits that the loss gets, if it is not that of the model's


def register() -> None:
    """Make the schema, the impostors and our resolvers known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="schema/optimizer", name="sgd", node=SGD)
    store.store(group="schema/optimizer", name="adamw", node=AdamW)
    for mistake in MISTAKES:
        store.store(group="loss/impostor", name=mistake, node={"_target_": IMPOSTOR, "mistake": mistake})
    store.store(group="loss/impostor", name="mean_of_means", node={"_target_": MEAN_OF_MEANS})
    OmegaConf.register_new_resolver("project", lambda: str(CONFIGS.parent), replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("began", began, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("cores", lambda: min(torch.get_num_threads(), MAX_AT_ONCE), replace=True)
    OmegaConf.register_new_resolver("started_together", started_together, replace=True)
    OmegaConf.register_new_resolver("impostors", lambda: ",".join(f"impostor/{m}" for m in MISTAKES), replace=True)


def run_name(overrides: list[str]) -> str:
    """What a run's command line changed, as the name of a folder: `loss=scratch,seed=1`."""
    name = ",".join(override.lstrip("+") for override in overrides).replace("/", "%2F") or "defaults"
    if len(name.encode()) > 200:  # a file system takes 255 bytes
        name = f"{name[:40]}...{sha1(name.encode()).hexdigest()[:12]}"
    return name


def run_of_job(cfg: DictConfig, job: HydraConf) -> Run:
    """The run that Hydra composed for one of its jobs. BadInput if it cannot be done."""
    folder, swept = Path(job.runtime.output_dir), job.mode is RunMode.MULTIRUN
    if not swept:
        _refuse_half_a_sweep(job)
    overrides = list(job.overrides.task)
    return composed_run(cfg, job.runtime.choices, overrides, folder, swept, searched_by_hydra(job))


def composed_run(
    cfg: DictConfig,
    choices: dict[str, str],
    overrides: list[str],
    folder: Path,
    swept: bool,
    searched: Sequence[Path] = (CONFIGS,),
) -> Run:
    """The run that a configuration describes, one of a sweep or not. BadInput if it cannot be done.

    Args:
        choices: of the configuration groups.
        searched: the folders that Hydra found configurations in, the first first.
    """
    _keep_own(cfg, choices["loss"], swept, searched)
    cfg.data.root = str(absolute(cfg.data.root))
    config = validated(cfg)
    if started_together() not in (1, config.processes):
        raise BadInput(f"processes={config.processes}: torchrun has started {started_together()}, leave it out")
    device = prepare(config.device)
    if not kind(device).float64 and Precision.float64 in (config.precision, config.loss_precision):
        raise BadInput(f"device={device.type}: it has no float64; train with device=cpu, or precision=float32")
    dtype = torch.float64 if config.precision is Precision.float64 else torch.float32
    own = config.loss_precision is not config.precision
    loss_dtype = getattr(torch, config.loss_precision.value) if own else None
    settings = named_settings(cfg, choices) | _of_machine(device)
    return Run(config, cfg, settings, overrides, folder, swept, device, dtype, loss_dtype)


def on_this_process(run: Run) -> Run:
    """The run with the device and the machine of this process, one of several, in it."""
    device = prepare(run.config.device)
    return run._replace(device=device, settings=run.settings | _of_machine(device))


def _of_machine(device: torch.device) -> dict[str, Any]:
    return {"device": str(device)} | machine(device)


def named_settings(cfg: DictConfig, choices: dict[str, str]) -> dict[str, Any]:
    """Every setting by its dotted name, as JSON values, a group's own name standing for its choice.

    >>> named_settings(cfg, {"loss": "scratch", ...})
    {"loss": "scratch", "optimizer.lr": 0.1, "seed": 0, ...}
    """
    container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    by_name = {str(key): each for key, each in container.items()}
    return {group: choices[group] for group in GROUPS} | flat_settings(by_name)


def _refuse_half_a_sweep(hydra: HydraConf) -> None:
    """BadInput for a single run of an experiment that sweeps over settings which are not given."""
    given = [override.partition("=")[0].lstrip("+~") for override in hydra.overrides.task]
    left = [key for key in hydra.sweeper.get("params") or {} if key.lstrip("+") not in given]
    if left:
        experiment = " ".join(override for override in hydra.overrides.task if "experiment=" in override)
        raise BadInput(
            f"{experiment} is a sweep over {', '.join(left)}: expected -m too, python train.py -m {experiment}"
        )


def searched_by_hydra(hydra: HydraConf) -> list[Path]:
    """The folders that it found configurations in: configs/, and that of --config-dir."""
    return [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]


def configuration_flags(job: HydraConf) -> list[str]:
    """The flags and overrides that tell Hydra where this job's configuration files are."""
    given = []
    for source in job.runtime.config_sources:
        if source.provider == "command-line":
            given.append(f"--config-dir={source.path}")
        if source.provider == "main" and Path(source.path) != CONFIGS:
            given.append(f"--config-path={source.path}")
    if job.job.config_name != "train":
        given.append(f"--config-name={job.job.config_name}")
    return given + [each for each in job.overrides.hydra if each.lstrip("+").startswith("hydra.searchpath")]


def _keep_own(cfg: DictConfig, choice: str, swept: bool, searched: Sequence[Path]) -> None:
    """Let `loss._target_=...`, and arguments that PyTorch's loss has not, mean loss=custom alone.

    In a sweep over several losses Hydra gives them to all. Given beside one loss that is not custom, a `_target_` is
    BadInput.
    """
    own = {"_target_": IMPOSTOR, "mistake": ""} if choice.startswith("impostor/") else {"_target_": "???"}
    if choice == "impostor/mean_of_means":
        own = {"_target_": MEAN_OF_MEANS}
    for folder in searched:
        file = folder / "loss" / f"{choice}.yaml"
        if file.exists():
            own = yaml.safe_load(file.read_text()) or {}
            if "_target_" not in own:
                raise BadInput(f"{file} has no _target_: expected the name of a class or function, package.module.name")
            break
    if own["_target_"] == "???":
        return
    if cfg.loss._target_ != own["_target_"]:
        if not swept:
            raise BadInput(f"loss._target_={cfg.loss._target_}: expected beside loss=custom, add that")
        cfg.loss._target_ = own["_target_"]
    if swept:
        with open_dict(cfg.loss):
            for argument in [key for key in cfg.loss if key not in own and key not in OF_PYTORCH]:
                del cfg.loss[argument]


def write_configuration(run: Run) -> None:
    """Leave the configuration in the run's folder, as Hydra would, but once it is known that the folder is free.

    Its overrides.yaml begins with the flags that the overrides need.
    """
    if not is_first():
        return
    flags = configuration_flags(HydraConfig.get()) if HydraConfig.initialized() else []
    (run.folder / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(run.cfg, run.folder / ".hydra" / "config.yaml")
    OmegaConf.save([*flags, *run.overrides], run.folder / ".hydra" / "overrides.yaml")
