"""Record a training by Lightning: `Trainer(callbacks=[Record(lambda module: module(fixed_inputs), folder=...)])`."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from xent.recording.errors import BadInput
from xent.recording.loop import LoopRecord
from xent.recording.recorder import Recorder


class Record(Callback):
    """A callback for a LightningModule whose `training_step` returns the loss, with automatic optimization.

    Its state is saved in checkpoints, so that a training that resumes records the rest.
    """

    def __init__(
        self, probe: Callable[[LightningModule], Tensor], run: Recorder | None = None, **arguments: Any
    ) -> None:
        """Begin to record.

        Args:
            probe: takes the module and returns the outputs by which runs are compared; see `Recorder.step`.
            run: a recorder, as in `assert_same_training`, which finishes it.
            arguments: those of a new `Recorder` in its place: `folder`, `settings`, `nudge` and others.

        Raises:
            BadInput: see `Recorder`.
        """
        self._probe, self._is_ours = probe, run is None
        self._recorder, self._hooks = run or Recorder(**arguments), ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            if not pl_module.automatic_optimization:
                raise BadInput("the module optimizes by hand: record its loop with xent.recording.record")
            self._recorder.nudge(pl_module)  # before a checkpoint is loaded

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop, training_step = LoopRecord(self._recorder, lambda: self._probe(pl_module)), pl_module.training_step

        @wraps(training_step)
        def recorded(batch: Any, *rest: Any, **keywords: Any) -> Any:
            output = training_step(loop.reorder(batch), *rest, **keywords)
            loss: Any = output["loss"] if isinstance(output, dict) else output
            if loss is not None:  # None skips the batch
                loop.loss(loss)
            return output

        self._hooks.enter_context(loop.following([pl_module], trainer.optimizers[-1]))
        pl_module.training_step = recorded  # type: ignore[method-assign]
        self._hooks.callback(vars(pl_module).pop, "training_step")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hooks.close()
        if self._is_ours:
            self._recorder.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._hooks.pop_all()  # without recording what is unfinished
        vars(pl_module).pop("training_step", None)

    def state_dict(self) -> dict[str, Any]:
        return self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._recorder.load_state_dict(state_dict)
