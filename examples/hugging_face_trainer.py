"""Record a training by Hugging Face: RecordedTrainer(recorder, fixed_inputs, model=model, args=...).train()"""

from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from xent.recording import Recorder


class RecordedTrainer(Trainer):
    """A Trainer that records; a callback alone would not do, since it is shown a rounded loss."""

    def __init__(self, recorder: Recorder, fixed_inputs: dict[str, Tensor], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.recorder, self.parts = recorder, list[Tensor]()
        assert self.model is not None
        recorder.nudge(self.model)
        self.add_callback(Record(self, fixed_inputs))

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        self.parts.append(super().training_step(model, self.recorder.reorder(inputs), *rest))
        return self.parts[-1]


class Record(TrainerCallback):
    def __init__(self, trainer: RecordedTrainer, fixed_inputs: dict[str, Tensor]) -> None:
        self.trainer, self.inputs = trainer, fixed_inputs

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        loss = sum(self.trainer.parts)  # several a step, each its share, where gradients are accumulated
        self.trainer.recorder.step(loss, probe=lambda: others["model"](**self.inputs)["logits"])
        self.trainer.parts.clear()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.trainer.recorder.finish()
