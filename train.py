"""Train a classifier with a loss of your choice: python train.py loss=scratch device=cuda"""

import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # Ctrl-C ends the imports, which take seconds, without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    import hydra
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: expected the environment of make compare, source .venv/bin/activate") from None
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from xent.cli.accompany import accompanied
from xent.cli.build import build
from xent.cli.compose import Run, compose_run, register, write_configuration
from xent.cli.distributed import from_rank_0, process_group
from xent.cli.resume import is_finished, resumed
from xent.cli.terminal import errors_of_a_command, errors_of_a_job, print_result, print_start
from xent.recording.processes import rank
from xent.training import checkpoint
from xent.training.datasets import load
from xent.training.device import make_deterministic
from xent.training.loop import fit

register()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    job = HydraConfig.get()
    folder, is_swept = Path(job.runtime.output_dir), job.mode is RunMode.MULTIRUN
    with errors_of_a_job(folder, is_swept):
        train(compose_run(cfg, job, folder, is_swept))


def train(run: Run) -> None:
    """Train a run to its last step, from its newest checkpoint if it has one. A finished run is left as it is.

    Raises:
        BadInput: the run cannot be built, or its folder holds a run with other settings.
        Stopped: the run had to stop; its last checkpoint is kept.
    """
    make_deterministic(run.device)
    torch.set_num_threads(run.threads)
    with process_group(run), checkpoint.locked(run.folder):
        saved = from_rank_0(checkpoint.load(run.folder) if rank() == 0 else None)
        changed = checkpoint.changed_settings(saved, run.settings, run.folder) if saved else {}
        if from_rank_0(rank() == 0 and is_finished(run, saved, changed)):
            return
        train_images, test_images = load(run.config.data, run.device, run.dtype)
        training = build(run, train_images)
        if saved:
            checkpoint.restore(saved, training, changed)
        if rank() == 0:
            write_configuration(run)
            print_start(run, training.recorder)
        start, first = time.perf_counter(), training.recorder.steps_made
        with accompanied(run, training, train_images, saved) as after_step:
            for step in fit(training, train_images, test_images, run.config.log_every, run.config.test_every):
                after_step(step)
        training.recorder.finish()
        if rank() == 0:
            trace = training.recorder.trace
            print_result(run, trace, trace.step - first, time.perf_counter() - start)


if __name__ == "__main__":
    with errors_of_a_command():
        sys.argv[1:] = resumed(sys.argv[1:])
        main()
