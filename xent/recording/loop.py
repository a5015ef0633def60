"""Record a loop of one's own, of which nothing changes: `with record(model, optimizer, ...) as run`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xent.recording.device import widest_float
from xent.recording.errors import BadInput
from xent.recording.recorder import Probe, Recorder


def record(  # noqa: PLR0913  as Recorder
    model: nn.Module | Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    *,
    probe: Probe,
    loss: Callable[[Any], Tensor] | None = None,
    folder: str | Path | None = None,
    steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    nudge: int | None = None,
    where: int | Sequence[int] | None = None,
    run: Recorder | None = None,
) -> "LoopRecord":
    """Record a training, a step whenever the optimizer makes one.

    >>> with record(model, optimizer, folder="runs/mine", probe=lambda: model(fixed_inputs)) as run:
    ...     for x, y in run.batches(loader):
    ...         loss = cross_entropy(model(x), y)
    ...         run.loss(loss)
    ...         loss.backward()
    ...         optimizer.step()
    ...         optimizer.zero_grad()

    Where the model returns its loss, one line before the loop is enough, if the number of steps is known:

    >>> record(model, optimizer, loss=lambda output: output.loss, steps=200, probe=..., folder=...)

    A step is recorded when the next one begins, or at the end: so `run.loss` may stand before or after the optimizer's
    step. Nothing is written if the training inside `with` raises an exception.

    Args:
        model: what is trained, nudged here; several modules as a list.
        optimizer: whose steps are counted; with several, the last that makes its step.
        probe: see `Recorder.step`.
        loss: takes the loss from what the model returns in a training step. What the model is called with is the batch
            then, and put in the order of the nudge.
        folder, steps, settings, nudge, where: see `Recorder`.
        run: a recorder in place of all these, as in `assert_same_training`, which finishes it.

    Returns:
        what takes the losses and the batches. Leave it as a context, or call `finish`.

    Raises:
        BadInput: see `Recorder`.
    """
    loop = LoopRecord(probe, run, folder=folder, steps=steps, settings=settings, nudge=nudge, where=where)
    models = [model] if isinstance(model, nn.Module) else list(model)
    for module in models:
        loop.recorder.nudge(module)
    loop.follow(models, optimizer, loss)
    return loop


class LoopRecord:
    """Takes the losses of a training, and knows which step each is of.

    Attributes:
        recorder: what records it.
        adds_up: whether the losses of microbatches are added up, in place of their mean.
    """

    def __init__(self, probe: Probe, run: Recorder | None = None, **arguments: Any) -> None:
        """Begin to record.

        Args:
            probe: see `Recorder.step`.
            run: a recorder, which its owner finishes.
            arguments: those of a new `Recorder` in its place.

        Raises:
            BadInput: see `Recorder`.
        """
        self.recorder, self.adds_up = run or Recorder(**arguments), False
        self._probe, self._finishes, self._hooks = probe, run is None, list[Any]()
        self._losses, self._is_made, self._knows_all_losses = list[Tensor](), False, False

    def follow(
        self, models: Iterable[nn.Module], optimizer: torch.optim.Optimizer, loss: Callable[[Any], Tensor] | None = None
    ) -> None:
        """Notice each step of the optimizer and each forward pass of the models, until `finish`; see `record`."""
        first, *others = models
        self._knows_all_losses = loss is not None
        if loss:
            self._hooks.append(first.register_forward_pre_hook(Hook(self.reorder_inputs), with_kwargs=True))
            take = Hook(lambda module, _, output: self._take(module, loss(output)))
            self._hooks.append(first.register_forward_hook(take))
        self._hooks += [module.register_forward_pre_hook(Hook(self._before_forward)) for module in (first, *others)]
        # Accelerate's optimizer has no hooks, and holds the one that makes the steps.
        self._hooks.append(getattr(optimizer, "optimizer", optimizer).register_step_post_hook(self._after_step))

    def loss(self, value: Tensor | float) -> None:
        """Hand over a loss, once a microbatch, before or after the optimizer's step. Their mean is recorded.

        Args:
            value: a scalar; its gradient is not needed.
        """
        loss = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        self._losses.append(loss.to(widest_float(loss.device)))

    def reorder(self, *batch: Any, dim: int = 0) -> Any:
        """A batch in the order of the nudge; see `Recorder.reorder`."""
        self.close_step()
        return self.recorder.reorder(*batch, dim=dim)

    def reorder_inputs(self, module: nn.Module, inputs: Any, keywords: dict[str, Any]) -> Any:
        """A hook before a forward pass, in which what the module is called with is the batch."""
        if not trains(module):
            return None
        *inputs, keywords = self.reorder([*inputs, keywords])
        return tuple(inputs), keywords

    def batches(self, loader: Iterable[Any], dim: int = 0) -> Iterator[Any]:
        """The batches of a loader, each in the order of the nudge."""
        for batch in loader:
            yield self.reorder(batch, dim=dim)

    def finish(self) -> None:
        """Record the last step, and write the trace.

        Raises:
            BadInput: a step was made of which no loss was handed over; or see `Recorder.finish`.
        """
        self.stop()
        self.close_step()
        if self._finishes:
            self.recorder.finish()

    def stop(self) -> None:
        """Notice nothing more."""
        while self._hooks:
            self._hooks.pop().remove()

    def __enter__(self) -> "LoopRecord":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish() if kind is None else self.stop()

    def _before_forward(self, module: nn.Module, inputs: Any) -> None:
        if trains(module):
            self.close_step()

    def _take(self, module: nn.Module, loss: Tensor) -> None:
        if trains(module):
            self.loss(loss)

    def _after_step(self, *_: Any) -> None:
        self.close_step()  # a step made without a forward pass
        self._is_made = True
        if self._knows_all_losses and self.recorder.steps_made + 1 == self.recorder.steps:
            self.finish()

    def close_step(self) -> None:
        """Record the step that was made, if there is one: all of its losses are there.

        Raises:
            BadInput: there is no loss of it.
        """
        if not self._is_made:
            return
        if not self._losses:
            step = self.recorder.steps_made + 1
            raise BadInput(f"no loss of step {step}: call run.loss(loss) before or after the optimizer's step")
        losses = torch.stack([loss.reshape(()) for loss in self._losses])
        self._losses, self._is_made = [], False
        self.recorder.step(losses.sum() if self.adds_up else losses.mean(), self._probe)


class Hook:
    """Calls a function. A copy of it, or a saved one, as of the model that it is in, calls nothing."""

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments) if self._function else None

    def __reduce__(self) -> Any:
        return Hook, (None,)


def trains(module: nn.Module) -> bool:
    """Whether a forward pass is one of a training step, and not of an evaluation."""
    return torch.is_grad_enabled() and module.training
