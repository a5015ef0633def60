"""Hydra's callbacks of a sweep: every loss is tried before it begins, and its runs are compared when it ends."""

import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from xent.cli.build import tried_loss
from xent.cli.compose import composed_run
from xent.cli.error_messages import errors_of_a_run
from xent.training.datasets import read
from xent.training.errors import BadInput

KEYS_OF_A_TRIAL = ("loss", "precision", "loss_precision", "device", "data")  # on which it depends whether it succeeds


class TryLosses(Callback):
    """Refuses a sweep with a loss that cannot be trained with, before the first run, in whatever run it comes."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        with errors_of_a_run(folder, swept=True):
            for cfg, choices in _configurations(config):
                run = composed_run(cfg, choices, [], folder, swept=True)
                images, _ = read(run.config.data.dataset, Path(run.config.data.root))
                tried_loss(run, images.classes)


def _configurations(config: DictConfig) -> Iterator[tuple[DictConfig, dict[str, str]]]:
    """Each configuration of a sweep and its choices of groups, of those alone that differ in keys of a trial."""
    loader = GlobalHydra.instance().config_loader()
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    given += config.hydra.overrides.task
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(loader).parse_overrides(given):
        key = override.get_key_element()
        if override.is_discrete_sweep():
            all_values = [f"{key}={value}" for value in override.sweep_string_iterator()]
            matters = key.lstrip("+~").partition(".")[0] in KEYS_OF_A_TRIAL
            values[key] = all_values if matters else all_values[:1]
        elif not override.is_sweep_override():  # an interval, which other sweepers draw from, has no first value
            values[key] = [override.input_line or ""]
    for overrides in product(*values.values()):
        cfg = loader.load_sweep_config(config, list(overrides))
        choices = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg, choices


@dataclass
class CompareRuns(Callback):
    """Compares by a setting with its value in the reference runs; see xent.compare.compare. By null, not at all."""

    by: str | None = "loss"
    reference: str | None = None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.by is None:
            return
        from xent.compare import compare  # Hydra makes this callback for single runs too, which need no plots

        folder = Path(config.hydra.sweep.dir)
        try:
            compare([folder], self.by, self.reference)
        except BadInput as error:  # the runs are trained and kept, whether or not they can be compared
            print(error, file=sys.stderr)
        except Exception as error:  # Hydra would make it a warning and end as if all were well
            traceback.print_exc()
            raise SystemExit(1) from error
