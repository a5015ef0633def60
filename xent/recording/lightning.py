"""Record a training by Lightning: `Trainer(callbacks=[Record(lambda module: module(fixed_inputs), folder=...)])`."""

from collections.abc import Callable
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
        """Begin to record; see `LoopRecord`, whose probe takes the module here."""
        self._loop = LoopRecord(lambda: probe(self._module), run, **arguments)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            if not pl_module.automatic_optimization:
                raise BadInput("the module optimizes by hand: record its loop with xent.recording.record")
            self._module = pl_module
            self._loop.recorder.nudge(pl_module)  # before a checkpoint is loaded

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop.follow([pl_module], trainer.optimizers[-1])
        loop, training_step = self._loop, pl_module.training_step

        @wraps(training_step)
        def recorded(batch: Any, *rest: Any, **keywords: Any) -> Any:
            output = training_step(loop.reorder(batch), *rest, **keywords)
            loss: Any = output["loss"] if isinstance(output, dict) else output
            if loss is not None:  # None skips the batch
                loop.loss(loss)
            return output

        pl_module.training_step = recorded  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._loop.close_step()  # before a strategy lets `forward` mean `training_step`, which the probe must not call

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module.training_step
        self._loop.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if vars(pl_module).pop("training_step", None):
            self._loop.stop()

    def state_dict(self) -> dict[str, Any]:
        return self._loop.recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loop.recorder.load_state_dict(state_dict)
