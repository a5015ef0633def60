"""The Hydra callback that compares a sweep's runs when it ends."""

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from xent.training.errors import BadInput


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
