"""A sweep: all of its runs are tried before the first one starts, and compared when the last one ends."""

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from xent.cli.build import build_tried_loss, try_optimizer
from xent.cli.compose import compose_run
from xent.cli.progress import ERASE, Sweep, show_sweep
from xent.cli.terminal import errors_of_a_job
from xent.recording.errors import BadInput
from xent.training.datasets import read


def try_sweep(config: DictConfig, jobs: Sequence[Sequence[str]], compose: Callable[[list[str]], DictConfig]) -> None:
    """Refuse a sweep before its first run if a value, a loss or an optimizer of any of its runs is wrong.

    Args:
        config: what Hydra composed for the sweep.
        jobs: the overrides of each run.
        compose: returns the configuration with such overrides.

    Raises:
        SystemExit: a run is wrong; the reason is printed in one line.
    """
    folder = Path(config.hydra.sweep.dir)
    tried_values, tried_combinations = set[str](), set[tuple[str, ...]]()
    with errors_of_a_job(folder, is_swept=True):
        if "RANK" in os.environ:
            raise BadInput("torchrun with -m: expected a single run; a sweep trains each of its runs in one process")
        for overrides in jobs:
            # A loss is tried in every combination but those of seed and nudge, any other value once.
            combination = tuple(override for override in overrides if not override.startswith(("seed=", "nudge=")))
            if combination in tried_combinations and {*overrides} <= tried_values:
                continue
            tried_combinations.add(combination)
            tried_values |= {*overrides}
            cfg = compose(list(overrides))
            with open_dict(cfg):
                hydra = cfg.pop("hydra")
            tried = compose_run(cfg, hydra, folder, is_swept=True)
            images, _ = read(tried.config.data.dataset, Path(tried.config.data.root))
            build_tried_loss(tried, images.classes)
            try_optimizer(tried)
    runs = [tuple(word for word in job if not word.lstrip("+~").startswith(("hydra.", "hydra/"))) for job in jobs]
    Sweep().begin(tuple(runs), folder)
    swept = {word.partition("=")[0] for run in runs for word in Sweep().name(run).split()}
    alike = " ".join(f"{key}={tried.settings[key]}" for key in ("model", "data", "device") if key not in swept)
    earlier = f", {Sweep().earlier} of them finished" if Sweep().earlier else ""
    print(f"{len(jobs)} run{'s' if len(jobs) > 1 else ''} of {alike} in {os.path.relpath(folder)}{earlier}", flush=True)
    show_sweep()


@dataclass
class CompareRuns(Callback):
    """Compare the runs of a sweep when it ends.

    Attributes:
        by: the setting that is compared; see xent.compare.compare. None compares nothing.
        reference: its value in the reference runs.
        output: the folder of the report, inside that of the sweep.
        fail: whether the sweep ends with the exit code of the comparison; see xent.report.summary.exit_code.
    """

    by: str | None = "loss"
    reference: str | None = None
    output: str = "comparison"
    fail: bool = False

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.by is None:
            return
        if sys.stdout.isatty():
            print(ERASE, end="", flush=True)
        from xent.compare import compare  # Hydra makes this callback for single runs too, which need no plots

        folder = Path(config.hydra.sweep.dir)
        command = shlex.join(["python", *(word for word in sys.argv if not word.startswith("hydra.sweep.dir="))])
        try:
            code = compare([folder], self.by, self.reference, folder / self.output, command)
        except BadInput as error:  # the runs are trained and kept, whether or not they can be compared
            print(error, file=sys.stderr)
            code = 2
        except Exception:  # Hydra would only warn, and exit with 0
            traceback.print_exc()
            sys.exit(1)
        if self.fail and code:
            sys.exit(code)
