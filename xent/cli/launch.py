"""A run of several processes, started by torchrun's agent in this one."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from xent.cli.compose import Run, on_this_process
from xent.cli.error_messages import TRACEBACK_WANTED, errors_of_a_run
from xent.cli.progress import Sweep
from xent.cli.together import OtherEnded, Told
from xent.cli.torchrun import started_together
from xent.recording.errors import Stopped

MAIN = Path(__file__).parents[2] / "train.py"
# What train.py imports. A server imports it once, and the processes of all runs of a sweep are its forks.
PRELOADED = ["xent.cli.build", "xent.cli.callbacks", "xent.training.datasets"]
TALKATIVE = ("torch.distributed.elastic", "torch.multiprocessing")  # loggers that tell of an end in many lines

Train = Callable[[Run], None]


def launch(train: Train, run: Run) -> None:
    """Train a run: in this process, or, if torchrun did not start that, on as many as the run's `processes` says.

    Raises:
        SystemExit: as the first of them that ended otherwise than well.
        Stopped: one was killed, or had to stop.
    """
    count = run.config.processes
    if count == started_together():
        return train(run)
    # They take a while to import.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:
        if name.startswith(TALKATIVE):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    multiprocessing.set_forkserver_preload(PRELOADED)
    multiprocessing.set_start_method(method, force=True)  # in a process of joblib's it is one that others do not know
    threads = max(1, torch.get_num_threads() // count)
    os.environ["HYDRA_FULL_ERROR"] = str(int(TRACEBACK_WANTED))  # as it was, for the others to see
    hydra = OmegaConf.to_container(HydraConfig.instance().cfg) if HydraConfig.initialized() else None
    try:
        with TemporaryDirectory() as logs:
            config = LaunchConfig(1, 1, count, DefaultLogsSpecs(logs), start_method=method, max_restarts=0)
            config.rdzv_backend, config.rdzv_endpoint, config.run_id = "c10d", "localhost:0", uuid4().hex
            elastic_launch(config, _one_of_them)(run, threads, Sweep(), hydra)
    except SignalException as error:
        if run.swept and error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode < 0:
            names = {each.value: each.name for each in signal.Signals}  # those of real time have none
            name = names.get(-failure.exitcode, f"signal {-failure.exitcode}")
            raise Stopped(f"process {number} of {count} was ended by {name}") from error
        if failure.exitcode == 1:
            raise Told from error
        raise SystemExit(failure.exitcode) from None
    finally:
        os.environ["HYDRA_FULL_ERROR"] = "1"


def _one_of_them(run: Run, threads: int, sweep: Sweep, hydra: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    vars(Sweep()).update(vars(sweep))
    if hydra:
        HydraConfig.instance().cfg = OmegaConf.create(hydra)
    train: Train = run_path(str(MAIN))["train"]
    with errors_of_a_run(run.folder, swept=False):
        try:
            train(on_this_process(run))
        except OtherEnded as error:
            time.sleep(1)  # for the agent to see first which it was, and to tell
            raise SystemExit(1) from error
        except KeyboardInterrupt:
            if run.swept:  # the process that began the sweep tells
                raise SystemExit(130) from None
            raise


def _end_with_parent() -> None:
    """End if the process is killed that started this one: nobody would wait for the run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
