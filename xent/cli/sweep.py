"""Hydra's callbacks of a sweep: all of it is tried before it begins, and its runs are compared when it ends."""

import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from xent.cli.build import tried_loss
from xent.cli.compose import composed_run, configuration_flags, searched_by_hydra
from xent.cli.error_messages import errors_of_a_run
from xent.cli.progress import Sweep
from xent.cli.torchrun import started_together
from xent.recording.errors import BadInput
from xent.training.datasets import read

KEYS_OF_A_TRIAL = ("loss", "precision", "loss_precision", "device", "data")  # on which it depends whether it succeeds


class BeginSweep(Callback):
    """Refuses a sweep before the first run if a value or a loss of any of its runs is wrong."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        values = _values(config)
        with errors_of_a_run(folder, swept=True):
            if started_together() > 1:
                raise BadInput(
                    "torchrun with -m: expected a single run; for a sweep leave torchrun out, give processes=2"
                )
            for cfg, hydra in _configurations(config, values):
                run = composed_run(cfg, hydra.runtime.choices, [], folder, True, searched_by_hydra(hydra))
                images, *_ = read(run.config.data.dataset, Path(run.config.data.root))
                tried_loss(run, images.classes)
        swept = tuple(key for key, each in values.items() if len(each) > 1)
        sweep = Sweep()
        sweep.begin(prod(len(each) for each in values.values()), swept, folder, config.hydra.launcher.get("n_jobs", 1))
        alike = " ".join(f"{key}={run.settings[key]}" for key in ("model", "data", "device") if key not in swept)
        print(f"{sweep.runs} runs of {alike} in {os.path.relpath(folder)}", flush=True)


def _command(job: HydraConf) -> str:
    """That of a sweep, to repeat it in another folder."""
    flags, given = configuration_flags(job), job.overrides.hydra
    how = [each for each in given if each not in flags and not each.startswith(("hydra.sweep.dir=", "hydra.mode="))]
    return shlex.join(["python", "train.py", "-m", *flags, *job.overrides.task, *how])


def _values(config: DictConfig) -> dict[str, list[str]]:
    """The overrides of a sweep by their keys; of one that is swept, each."""
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    given += config.hydra.overrides.task
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(given):
        key = override.get_key_element()
        if override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif not override.is_sweep_override():  # an interval, which other sweepers draw from, has no first value
            values[key] = [override.input_line or ""]
    return values


def _configurations(config: DictConfig, values: dict[str, list[str]]) -> Iterator[tuple[DictConfig, HydraConf]]:
    """Configurations, and Hydra's own: every combination of a trial's keys, and every other value once."""
    loader = GlobalHydra.instance().config_loader()
    tried = [key for key in values if key.lstrip("+~").partition(".")[0] in KEYS_OF_A_TRIAL]
    combinations = [dict(zip(tried, each)) for each in product(*(values[key] for key in tried))]
    combinations += [{key: value} for key in values if key not in tried for value in values[key][1:]]
    for chosen in combinations:
        overrides = [chosen.get(key, each[0]) for key, each in values.items()]
        cfg = loader.load_sweep_config(config, overrides)
        hydra = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg, hydra


@dataclass
class CompareRuns(Callback):
    """Compares by a setting with its value in the reference runs; see xent.compare.compare. By null, not at all."""

    by: str | None = "loss"
    reference: str | None = None
    output: str = "comparison"  # in the folder of the sweep

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.by is None:
            return
        from xent.compare import compare  # Hydra makes this callback for single runs too, which need no plots

        folder = Path(config.hydra.sweep.dir)
        try:
            compare([folder], self.by, self.reference, folder / self.output, _command(config.hydra))
        except BadInput as error:  # the runs are trained and kept, whether or not they can be compared
            print(error, file=sys.stderr)
        except Exception as error:  # Hydra would make it a warning and end as if all were well
            traceback.print_exc()
            raise SystemExit(1) from error
