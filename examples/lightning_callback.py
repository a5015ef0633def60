"""Record a training by Lightning: Trainer(callbacks=[Record(recorder, fixed_inputs)], max_steps=recorder.steps)."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from xent.recording import Recorder


class Record(Callback):
    """For batches that are lists of tensors, as Lightning makes them, and a training_step that returns the loss."""

    def __init__(self, recorder: Recorder, fixed_inputs: Tensor) -> None:
        self.recorder, self.inputs, self.parts = recorder, fixed_inputs, list[Tensor]()

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.recorder.nudge(module)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *_: Any) -> None:
        batch[:] = self.recorder.reorder(batch)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        self.parts.append(outputs["loss"].detach())  # several a step, where gradients are accumulated
        if trainer.global_step > self.recorder.steps_made:
            self.recorder.step(sum(self.parts) / len(self.parts), probe=lambda: module(self.inputs))
            self.parts.clear()

    def on_train_end(self, *_: Any) -> None:
        self.recorder.finish()
