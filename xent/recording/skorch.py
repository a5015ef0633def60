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
        """Begin to record.

        Args:
            probe: takes the module and returns the outputs by which runs are compared; see `Recorder.step`.
            run: a recorder, as in `assert_same_training`, which finishes it.
            arguments: those of a new `Recorder` in its place: `folder`, `settings`, `nudge` and others.

        Raises:
            BadInput: see `Recorder`.
        """
        self._recorder, self._finishes, self._probe = run or Recorder(**arguments), run is None, probe

    def on_train_begin(self, net: Any, **others: Any) -> None:
        self._recorder.nudge(net.module_)
        self._loop = loop = LoopRecord(self._recorder, lambda: self._probe(net.module_), self._finishes)
        loop.follow([net.module_], net.optimizer_)
        train_step = net.train_step

        def recorded(batch: Any, **keywords: Any) -> Any:
            step = train_step(loop.reorder(batch), **keywords)
            loop.loss(step["loss"])
            return step

        net.train_step = recorded

    def on_train_end(self, net: Any, **others: Any) -> None:
        del vars(net)["train_step"]
        self._loop.finish()
