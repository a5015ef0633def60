"""Record a training by Lightning: Trainer(callbacks=[Record(recorder, fixed_inputs)], max_steps=recorder.steps)."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from xent.recording import Recorder


class Record(Callback):
    """For batches that are lists, as Lightning makes them, each a step; training_step returns the loss."""

    def __init__(self, recorder: Recorder, fixed_inputs: Tensor) -> None:
        self.recorder, self.inputs = recorder, fixed_inputs

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.recorder.nudge(module)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *_: Any) -> None:
        batch[:] = self.recorder.reorder(batch)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.recorder.step(outputs["loss"], probe=lambda: module(self.inputs))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.recorder.finish()
