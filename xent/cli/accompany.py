"""What accompanies a training: TensorBoard, progress, checkpoints, Ctrl-C, and the stop at a non-finite loss."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from xent.cli.build import build_reference
from xent.cli.compose import Run
from xent.cli.distributed import tell
from xent.cli.progress import Sweep, progress
from xent.cli.schema import OnNonfinite
from xent.recording.files import cannot_write
from xent.recording.processes import launched, rank, world_size
from xent.recording.trace import learned
from xent.training import checkpoint
from xent.training.data import Split
from xent.training.diagnostics import scalars, stop_if_nonfinite
from xent.training.loop import Step, Training


@contextmanager
def accompanied(
    run: Run, training: Training, train: Split, saved: dict[str, Any] | None
) -> Iterator[Callable[[Step], None]]:
    """Accompany a training to its end: log it, save checkpoints, and stop it at Ctrl-C or a non-finite loss.

    Args:
        saved: the checkpoint from which the training resumed; None if it begins.

    Yields:
        a function that takes each step when it is made; it does nothing on ranks other than 0.

    Raises:
        Stopped: the function got a step with a non-finite loss, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C was pressed; the function has saved a checkpoint.
    """
    config, recorder, first = run.config, training.recorder, training.recorder.steps_made
    steps_per_epoch = train.steps_per_epoch(config.batch_size)
    checkpoint_every = config.checkpoint_every or steps_per_epoch
    reference = build_reference(config.loss, train.classes)
    stops = config.on_nonfinite is OnNonfinite.stop
    # To see each loss, the host would have to wait for a GPU, or for other processes, at each step.
    sees_each_loss = run.device.type == "cpu" and world_size() == 1
    with _interrupted_between_steps() as interrupted:
        if rank() > 0:
            yield lambda step: None
            return
        if saved is None:
            checkpoint.save(run.folder, training, run.overrides)
        with (
            _events(run, recorder.trace.settings, first + bool(saved)) as write,
            progress(run, first, recorder.steps) as show,
        ):

            def after_step(step: Step) -> None:
                number, trace = step.number, recorder.trace
                if stops and (step.is_logged or sees_each_loss):
                    stop_if_nonfinite(training, step, max(first, number - config.log_every), train, run.folder)
                if step.is_logged:
                    loss = trace.losses[number - 1].item()
                    write(number, scalars(step, loss, training.model, reference))
                    show(number, loss)
                if number in trace.tests:
                    write(number, dict(zip(("test/loss", "test/accuracy"), trace.tests[number])))
                due = number % checkpoint_every == 0 or number % steps_per_epoch == 0 or number == recorder.steps
                # A non-finite loss that is not seen yet stops the run at a later step. The run must resume from before.
                if (due or interrupted()) and not (stops and not trace.losses[first:number].isfinite().all()):
                    checkpoint.save(run.folder, training, run.overrides)
                if interrupted():
                    raise KeyboardInterrupt
                if number == steps_per_epoch and not learned(trace.losses[:number]):
                    tell(f"the loss did not fall in {number} steps: this training learns nothing")

            yield after_step


@contextmanager
def _events(run: Run, settings: dict[str, Any], purge_step: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Write the TensorBoard events of a run: its settings as text and as hyperparameters, and scalars.

    Older events from `purge_step` on are superseded. It is 0 for a run that begins. A nudged run writes nothing: it
    measures the floor and is no curve to look at. Of a sweep over seeds, the first has the curves: TensorBoard ticks no
    run if there are more than forty.

    Yields:
        a function that writes scalars by tag after a number of steps. When it returns, the operating system has them.

    Raises:
        Stopped: the events cannot be written.
    """
    if run.config.nudge or (run.is_swept and not Sweep().is_drawn(run.overrides)):
        yield lambda step, scalars: None
        return
    hook = threading.excepthook
    # What fails in the writer's thread is raised again here, by flush.
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else hook(args)
    try:
        writer = SummaryWriter(str(run.folder), purge_step=purge_step)
        numbers_or_text = {key: value if type(value) in (int, float) else str(value) for key, value in settings.items()}
        # The first summary would fix the columns of HPARAMS. Without it they are of all runs, what differs first.
        _, session_start, session_end = hparams(numbers_or_text, {})
        if purge_step == 0:
            rows = "".join(f"| `{key}` | `{value}` |\n" for key, value in settings.items())
            writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")
            writer._get_file_writer().add_summary(session_start)

        def write(step: int, scalars: dict[str, float]) -> None:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, step)
            writer.flush()  # the thread would hold them back for up to two minutes

        yield write
        writer._get_file_writer().add_summary(session_end)
        writer.close()
    except OSError as error:
        raise cannot_write(run.folder / "events.out.tfevents", error) from error
    finally:
        threading.excepthook = hook


@contextmanager
def _interrupted_between_steps() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C, and torchrun's signal to end, until a step is over. A second one is not held back.

    Inside a step, KeyboardInterrupt could leave a lock held, or be lost where nothing may be raised. With several
    processes, rank 0 decides: the other ranks ignore the signal and end when rank 0 does. Outside the main thread
    Python allows no handlers.

    Yields:
        a function that tells whether a signal came.
    """
    came = False

    def hold_back(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    signals = [signal.SIGINT, signal.SIGTERM] if launched() else [signal.SIGINT]
    signals = signals if threading.current_thread() is threading.main_thread() else []
    handler = signal.SIG_IGN if rank() > 0 else hold_back
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield lambda: came
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
