"""Record a training by skorch: `NeuralNet(..., callbacks=[Record(lambda module: module(fixed), folder=...)])`."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from skorch.callbacks import Callback
from torch import Tensor, nn

from xent.recording.loop import LoopRecord
from xent.recording.recorder import Recorder


class Record(Callback):  # type: ignore[misc]
    """A callback for a net."""

    def __init__(self, probe: Callable[[nn.Module], Tensor], run: Recorder | None = None, **arguments: Any) -> None:
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

    def on_train_begin(self, net: Any, **others: Any) -> None:
        self._recorder.nudge(net.module_)
        loop, train_step = LoopRecord(self._recorder, lambda: self._probe(net.module_)), net.train_step

        def recorded(batch: Any, **keywords: Any) -> Any:
            step = train_step(loop.reorder(batch), **keywords)
            loop.loss(step["loss"])
            return step

        self._hooks.enter_context(loop.following([net.module_], net.optimizer_))
        net.train_step = recorded
        self._hooks.callback(vars(net).pop, "train_step")

    def on_train_end(self, net: Any, **others: Any) -> None:
        self._hooks.close()
        if self._is_ours:
            self._recorder.finish()
