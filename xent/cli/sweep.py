"""A sweep: all of its runs are tried before the first one starts, and compared when the last one ends."""

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from xent.cli.build import build_tried_loss, try_optimizer
from xent.cli.compose import Run, compose_run, has_effect
from xent.cli.progress import SEEDS_AND_NUDGES, Sweep, erase, show_sweep, show_trying
from xent.cli.terminal import errors_of_a_job
from xent.recording.errors import BadInput
from xent.recording.processes import launched
from xent.recording.trace import FILE
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
    folder = Path(config.hydra.sweep.dir).absolute()
    tried_values, tried_combinations = set[str](), set[tuple[str, ...]]()
    with errors_of_a_job(folder, is_swept=True):
        if not jobs:
            raise BadInput("a sweep without runs: expected values to sweep over, as seed=0,1")
        _refuse_twice(jobs)
        show_trying(len(jobs))
        if launched():
            raise BadInput("torchrun with -m: expected a single run; a sweep trains each of its runs in one process")
        for overrides in jobs:
            # A loss is tried in every combination but those of seed and nudge, any other value once.
            combination = tuple(override for override in overrides if not override.startswith(SEEDS_AND_NUDGES))
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
    named = "run_name" in OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
    Sweep().begin(tuple(runs) if named else (), folder)
    swept = {word.partition("=")[0] for run in runs for word in Sweep().name(run).split()}
    alike = " ".join(f"{key}={tried.settings[key]}" for key in ("model", "data", "device") if key not in swept)
    counted = f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}"
    earlier = f", {Sweep().earlier} of them finished" if Sweep().earlier else ""
    print(f"{erase()}{counted} of {alike} in {os.path.relpath(folder)}{earlier}", flush=True)
    # Else the verdict may rest on runs of an earlier command, or of another batch.
    is_whole = len(list(folder.rglob(FILE))) == Sweep().earlier and not config.hydra.sweeper.get("max_batch_size")
    if is_whole and (foreseen := _no_verdict(tried, runs, config.hydra.callbacks.get("compare") or {})):
        print(foreseen, flush=True)
    show_sweep()


def _refuse_twice(jobs: Sequence[Sequence[str]]) -> None:
    """Refuse runs that are the same: their values differ in how they are written, as 1 and 01, or have no effect.

    Raises:
        BadInput: two runs are the same.
    """
    parser, runs = OverridesParser.create(), dict[str, str]()
    for job in jobs:
        words, overrides = " ".join(job), parser.parse_overrides([word for word in job if has_effect(word)])
        values = repr([(override.key_or_group, _number(override.value())) for override in overrides])
        if values in runs:
            raise BadInput(f"two runs of the sweep are the same: {runs[values]} and {words}")
        runs[values] = words


def _number(value: Any) -> Any:
    """A value as a number, if it is one: Hydra takes 01 for text."""
    for kind in (int, float):
        with suppress(TypeError, ValueError):
            if (number := kind(value)) == value or isinstance(value, str):
                return number
    return value


def _no_verdict(run: Run, runs: list[tuple[str, ...]], compared: Mapping[str, Any]) -> str:
    """Why the sweep that this run belongs to will have no verdict; empty if it may have one."""
    from xent.verdict.matching import DEFAULT_REFERENCE  # a single run imports nothing to compare with

    by = compared.get("by")
    if by not in run.settings or by.startswith("machine.") or by in ("seed", "nudge"):
        return ""
    values = {word.partition("=")[2] for words in runs for word in words if word.startswith(f"{by}=")}
    values = values or {str(run.settings[by])}
    reference = compared.get("reference") or DEFAULT_REFERENCE.get(by)
    if len(values) == 1 and not any(word.startswith(f"{by}.") for words in runs for word in words):
        return f"nothing to compare: every run has {by}={values.pop()}"
    if reference and reference not in values and by == "loss":
        return f"nothing to compare: no run has {by}={reference}"
    if not any(word.startswith("nudge=") and word != "nudge=0" for words in runs for word in words):
        return "no floor, so no verdict unless runs are bitwise identical: add nudge=0,1,2"
    return ""


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
        print(erase(), end="", flush=True)
        from xent.compare import compare  # Hydra makes this callback for single runs too, which compare nothing

        folder = Path(config.hydra.sweep.dir)
        reference = None if self.reference is None else str(self.reference)  # Hydra makes a number of 1
        command = shlex.join(["python", *(word for word in sys.argv if not word.startswith("hydra.sweep.dir="))])
        try:
            code = compare([folder], self.by, reference, folder / self.output, command)
        except BadInput as error:  # the runs are trained and kept, whether or not they can be compared
            print(error, file=sys.stderr)
            code = 2
        except Exception:  # Hydra would only warn, and exit with 0
            traceback.print_exc()
            sys.exit(1)
        if self.fail and code:
            sys.exit(code)
