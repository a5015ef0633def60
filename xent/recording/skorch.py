"""Record a training by skorch: `NeuralNet(..., callbacks=[Record(lambda module: module(fixed), folder=...)])`."""

from collections.abc import Callable
from typing import Any

from skorch.callbacks import Callback
from torch import Tensor, nn

from xent.recording.loop import LoopRecord
from xent.recording.recorder import Recorder


class Record(Callback):  # type: ignore[misc]
    """A callback for a net."""

    def __init__(self, probe: Callable[[nn.Module], Tensor], run: Recorder | None = None, **arguments: Any) -> None:
        """Begin to record; see `LoopRecord`, whose probe takes the module here."""
        self._loop = LoopRecord(lambda: probe(self._module), run, **arguments)

    def on_train_begin(self, net: Any, **others: Any) -> None:
        self._module, loop, train_step = net.module_, self._loop, net.train_step
        loop.recorder.nudge(net.module_)
        loop.follow([net.module_], net.optimizer_)

        def recorded(batch: Any, **keywords: Any) -> Any:
            step = train_step(loop.reorder(batch), **keywords)
            loop.loss(step["loss"])
            return step

        net.train_step = recorded

    def on_train_end(self, net: Any, **others: Any) -> None:
        del vars(net)["train_step"]
        self._loop.finish()
