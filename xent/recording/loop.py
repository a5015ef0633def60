"""Record a loop of one's own, of which nothing changes: `with record(model, optimizer, ...) as run`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xent.recording.device import widest_float
from xent.recording.errors import BadInput
from xent.recording.recorder import Probe, Recorder


@contextmanager
def record(  # noqa: PLR0913  as Recorder
    model: nn.Module | Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    *,
    probe: Probe,
    folder: str | Path | None = None,
    steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    nudge: int = 0,
    where: int | Sequence[int] | None = None,
    run: Recorder | None = None,
) -> Iterator["LoopRecord"]:
    """Record the training inside, a step whenever the optimizer makes one.

    >>> with record(model, optimizer, folder="runs/mine", probe=lambda: model(fixed_inputs)) as run:
    ...     for x, y in run.batches(loader):
    ...         loss = cross_entropy(model(x), y)
    ...         run.loss(loss)
    ...         loss.backward()
    ...         optimizer.step()
    ...         optimizer.zero_grad()

    A step is recorded when the next one begins, or at the end: so `run.loss` may stand before or after the optimizer's
    step. Nothing is written if the training raises an exception.

    Args:
        model: what is trained, nudged here; several modules as a list.
        optimizer: whose steps are counted; with several, the last that makes its step.
        probe: see `Recorder.step`.
        folder, steps, settings, nudge, where: see `Recorder`.
        run: a recorder in place of all these, as in `assert_same_training`.

    Yields:
        what takes the losses, and the batches.

    Raises:
        BadInput: see `Recorder`; or a step was made of which no loss was handed over.
    """
    recorder = run or Recorder(folder, steps=steps, settings=settings, nudge=nudge, where=where)
    models = [model] if isinstance(model, nn.Module) else list(model)
    for module in models:
        recorder.nudge(module)
    loop = LoopRecord(recorder, probe)
    with loop.following(models, optimizer):
        yield loop
    if run is None:
        recorder.finish()


class LoopRecord:
    """Takes the losses of a training, and knows which step each is of.

    Attributes:
        recorder: what records it.
        adds_up: whether the losses of microbatches are added up, in place of their mean.
    """

    def __init__(self, recorder: Recorder, probe: Probe, adds_up: bool = False) -> None:
        self.recorder, self.adds_up = recorder, adds_up
        self._probe, self._losses, self._is_made = probe, list[Tensor](), False

    @contextmanager
    def following(self, models: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Notice each step of the optimizer, and each forward pass of the models."""
        with ExitStack() as hooks:
            for module in models:
                hooks.callback(module.register_forward_pre_hook(self._before_forward).remove)
            # Accelerate's optimizer has no hooks, and holds the one that makes the steps.
            inner = getattr(optimizer, "optimizer", optimizer)
            hooks.callback(inner.register_step_post_hook(self._after_step).remove)
            yield
        self._close()

    def loss(self, value: Tensor | float) -> None:
        """Hand over a loss, once a microbatch, before or after the optimizer's step. Their mean is recorded.

        Args:
            value: a scalar; its gradient is not needed.
        """
        loss = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        self._losses.append(loss.to(widest_float(loss.device)))

    def reorder(self, *batch: Any, dim: int = 0) -> Any:
        """A batch in the order of the nudge; see `Recorder.reorder`."""
        self._close()
        return self.recorder.reorder(*batch, dim=dim)

    def batches(self, loader: Iterable[Any], dim: int = 0) -> Iterator[Any]:
        """The batches of a loader, each in the order of the nudge."""
        for batch in loader:
            yield self.reorder(batch, dim=dim)

    def _before_forward(self, module: nn.Module, inputs: Any) -> None:
        if torch.is_grad_enabled() and module.training:  # no evaluation
            self._close()

    def _after_step(self, *_: Any) -> None:
        self._close()  # a step made without a forward pass
        self._is_made = True

    def _close(self) -> None:
        """Record the step that was made, if there is one: all of its losses are there."""
        if not self._is_made:
            return
        if not self._losses:
            step = self.recorder.steps_made + 1
            raise BadInput(f"no loss of step {step}: call run.loss(loss) before or after the optimizer's step")
        losses = torch.stack([loss.reshape(()) for loss in self._losses])
        self._losses, self._is_made = [], False
        self.recorder.step(losses.sum() if self.adds_up else losses.mean(), self._probe)
