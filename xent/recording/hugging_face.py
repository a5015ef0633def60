"""Record a training by Hugging Face: `Trainer(callbacks=[Record(lambda model: model(**fixed).logits, folder=...)])`."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from xent.recording.loop import Hook, LoopRecord, trains
from xent.recording.recorder import Recorder


class Record(TrainerCallback):
    """A callback for a model that returns its loss. Where a function of yours computes it, call `record.loss(loss)`."""

    def __init__(self, probe: Callable[[Any], Tensor], run: Recorder | None = None, **arguments: Any) -> None:
        """Begin to record; see `LoopRecord`, whose probe takes the model here."""
        self._loop = LoopRecord(lambda: probe(self._model), run, **arguments)
        self._model: nn.Module | None = None  # that was nudged
        self._hooks = ExitStack()

    def loss(self, value: Tensor) -> None:
        """Hand over the loss of a microbatch, in a function `compute_loss_func` say."""
        if torch.is_grad_enabled():
            self._loop.loss(value)

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        if isinstance(model, nn.Module):
            self._nudge(model)  # before a checkpoint is loaded

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        model = others["model"]
        self._nudge(model)
        self._model = model  # another one, if the Trainer made it anew
        loop = self._loop

        def in_order(model: nn.Module, inputs: Any, keywords: dict[str, Any]) -> Any:
            if not trains(model):
                return None
            # The Trainer divides the sum of a whole step by this number, else each microbatch by its own.
            loop.adds_up = keywords.get("num_items_in_batch") is not None
            has_labels = inputs or any(name in keywords for name in args.label_names or ["labels"])
            return loop.reorder_inputs(model, inputs, keywords) if has_labels else None  # which must be reordered alike

        def take_loss(model: nn.Module, inputs: Any, outputs: Any) -> None:
            loss = outputs.get("loss") if hasattr(outputs, "get") else getattr(outputs, "loss", None)
            if trains(model) and loss is not None:
                loop.loss(loss)

        loop.follow([model], others["optimizer"])
        self._hooks.callback(model.register_forward_pre_hook(Hook(in_order), with_kwargs=True).remove)
        self._hooks.callback(model.register_forward_hook(Hook(take_loss)).remove)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._hooks.close()
        self._loop.finish()

    def _nudge(self, model: nn.Module) -> None:
        if self._model is None:
            self._loop.recorder.nudge(model)
            self._model = model
