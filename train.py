"""Train a classifier with a loss of your choice: python train.py loss=scratch device=cuda"""

import gc

gc.disable()  # while importing: all of it stays, and looking for garbage in it would take a fifth of the time

import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from xent.cli.build import build, load_data
from xent.cli.callbacks import callbacks_of
from xent.cli.compose import Run, register, run_of_job, write_configuration
from xent.cli.error_messages import errors_of_a_command, errors_of_a_run
from xent.cli.launch import launch
from xent.cli.progress import print_result, print_start
from xent.cli.resume import checkpoint_of, is_finished, resumed
from xent.cli.together import together
from xent.runs import checkpoint
from xent.training.loop import fit

gc.enable()
register()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    job = HydraConfig.get()
    with errors_of_a_run(Path(job.runtime.output_dir), job.mode is RunMode.MULTIRUN):
        launch(train, run_of_job(cfg, job))


def train(run: Run) -> None:
    """Train `run` to its end, from where its folder says that it is."""
    with together(run):
        saved = checkpoint_of(run)
        if is_finished(run, saved):
            return
        images, test_images = load_data(run, saved)
        training = build(run, images)
        if saved:
            checkpoint.restore(saved, training)
        write_configuration(run)
        print_start(run, training.recorder)
        start = time.perf_counter()
        with callbacks_of(run, training, images, saved) as (callbacks, newest):
            fit(training, images, test_images, run.config.log_every, callbacks, run.config.test_every)
        training.recorder.finish()
        print_result(run, newest, training.recorder.steps, time.perf_counter() - start)


if __name__ == "__main__":
    with errors_of_a_command():
        sys.argv[1:] = resumed(sys.argv[1:])
        main()
