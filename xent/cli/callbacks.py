"""What accompanies a training: TensorBoard, progress, checkpoints, Ctrl-C, and the first loss that is no number."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from xent.cli.compose import Run
from xent.cli.interrupt import interrupted_between_steps
from xent.cli.losses import build_reference
from xent.cli.progress import progress
from xent.cli.schema import OnNonfinite
from xent.recording.errors import Stopped
from xent.recording.processes import is_first
from xent.recording.trace import learned
from xent.runs import checkpoint
from xent.runs.event_file import RunLog
from xent.runs.nonfinite import stop
from xent.training.data import Split
from xent.training.loop import Callbacks, Step, Training
from xent.training.parity import scalars


@contextmanager
def callbacks_of(
    run: Run, training: Training, train: Split, saved: dict[str, Any] | None
) -> Iterator[tuple[Callbacks, dict[str, float]]]:
    """Watch over a training from where it is, which is where `saved` says, to its end, or to Stopped or Ctrl-C.

    Yields:
        what is called while it trains, and the newest value of every tag in TensorBoard; on the first of several
        processes, and on the others nothing.
    """
    if not is_first():
        with interrupted_between_steps(), out_of_memory(run):
            yield Callbacks(), {}
        return
    config, trace, steps = run.config, training.recorder.trace, training.recorder.steps
    steps_per_epoch = train.steps_per_epoch(config.batch_size)
    checkpoint_every = config.checkpoint_every or steps_per_epoch
    reference = build_reference(config.loss, train.classes)
    with (
        interrupted_between_steps() as asked,
        out_of_memory(run),
        RunLog(run.folder, trace.settings, saved["log"] if saved else None, trace.step) as events,
        progress(run, steps) as show,
    ):
        trace.events = events.file.name

        def log(step: Step) -> None:
            found = scalars(step, training.model, reference)
            events.write(step.number, found)
            show(step.number, found)

        def save() -> None:
            losses = training.recorder.trace.losses[: trace.step]
            if config.on_nonfinite is OnNonfinite.stop and not losses.isfinite().all():
                return  # the next step that is logged stops the run, which then goes on from before
            checkpoint.save(run.folder, training, run.overrides, events.position())

        def after_step() -> None:
            if trace.step in trace.tests:
                events.write(trace.step, dict(zip(("test/loss", "test/accuracy"), trace.tests[trace.step])))
            due = trace.step % checkpoint_every == 0 or trace.step % steps_per_epoch == 0 or trace.step == steps
            if due or asked():
                save()
            if asked():
                raise KeyboardInterrupt
            if trace.step == steps_per_epoch and not learned(training.recorder.trace.losses[: trace.step]):
                print(f"the loss did not fall in {trace.step} steps: this training learns nothing", file=sys.stderr)

        if saved is None:
            save()
        on_nonfinite = stop(run.folder, training, train) if config.on_nonfinite is OnNonfinite.stop else None
        yield Callbacks(log, after_step, on_nonfinite), events.newest


@contextmanager
def out_of_memory(run: Run) -> Iterator[None]:
    """Say what to try where memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        parts = min(2 * run.config.accumulate, run.config.batch_size // run.config.processes)
        raise Stopped(
            f"batch_size={run.config.batch_size} does not fit into the memory of {run.device}: try accumulate={parts}"
        ) from error
