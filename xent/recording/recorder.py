"""The recorder of a training: of anyone's loop, and of ours."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xent.recording import trace_file
from xent.recording.batch import reordered, samples_of, tensors_of
from xent.recording.device import widest_float
from xent.recording.errors import BadInput
from xent.recording.fingerprint import NONE, fingerprint
from xent.recording.machine import machine
from xent.recording.nudge import batch_order, bits_of_weights, check_can_nudge, nudge_weights
from xent.recording.processes import is_distributed, is_first, mean_over_processes, whole
from xent.recording.settings import precision_of, run_settings
from xent.recording.trace import NO_EFFECT, Trace, is_probe_step

Probe = Callable[[], Tensor]


class Recorder:
    """Records a training, for `python -m xent.compare` to judge.

    >>> run = Recorder("runs/mine_1", settings={"kernel": "mine", "seed": 1}, nudge=nudge, steps=200)
    >>> run.nudge(model)
    >>> for x, y in loader:
    ...     x, y = run.reorder(x, y)
    ...     loss = train_step(model, x, y)
    ...     run.step(loss, probe=lambda: model(fixed_inputs))
    >>> run.finish()

    The host waits for the device at probe steps only: after 1, 2, 4, 8, ... steps and the last. With several processes,
    call it in each of them; rank 0 writes.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        steps: int,
        settings: Mapping[str, Any] | None = None,
        nudge: int = 0,
    ) -> None:
        """BadInput if the folder holds a finished run, or cannot be made.

        Args:
            folder: where to write the trace; None keeps it in memory.
            steps: how many the training is to make.
            settings: everything that the training depends on: what you compare, the `seed`, and the `precision`, if
                the training computes in another type than its outputs have, `bfloat16` under autocast. The device, its
                processor and PyTorch are added.
            nudge: draws what must not matter; 0 changes nothing.
        """
        if not isinstance(steps, int) or not isinstance(nudge, int) or steps < 1 or nudge < 0:
            raise BadInput(f"steps={steps}, nudge={nudge}: expected an integer of 1 or more, and one of 0 or more")
        self._folder = Path(folder) if folder else None
        if self._folder:
            _make(self._folder)
        self._models: list[nn.Module] = []
        self._bits = bits_of_weights(nudge)
        losses = torch.full((steps,), nan, dtype=torch.float64)
        self._trace = Trace(run_settings(settings or {}, nudge), losses)
        self._on_its_way: tuple[int, Callable[[], Tensor]] | None = None  # a loss, and its index

    @property
    def trace(self) -> Trace:
        """What is recorded so far."""
        self._receive()
        return self._trace

    @property
    def steps(self) -> int:
        """How many the training is to make."""
        return len(self._trace.losses)

    @property
    def steps_made(self) -> int:
        return self._trace.step

    @property
    def seed(self) -> int:
        """That of the settings, to draw first weights and batches from."""
        return int(self._trace.settings["seed"])

    def nudge(self, model: nn.Module) -> None:
        """Move every weight by one unit in the last place, as drawn from the run's nudge; a nudge of 0 moves none.

        Call it in every run, once for each module that is trained: before the first step, and before you load the state
        of a stopped run. Probes are taken with these modules in evaluation mode. Weights split by `fully_shard` are
        moved as the whole would be; BadInput for a FullyShardedDataParallel: nudge the model before you wrap it.
        """
        trace = self._trace
        if trace.step > 0:
            raise BadInput(f"nudge() after {trace.step} steps: nudge the model first, then load its state")
        if any(model is nudged for nudged in self._models):
            raise BadInput("nudge() got the same module twice: nudge each module once")
        check_can_nudge(model)
        self._note("first weights", (whole(parameter) for parameter in model.parameters()), split=False)
        if trace.settings["nudge"] > 0:
            nudge_weights(model, self._bits, precision_of(trace.settings))
        self._models.append(model)

    def reorder(self, *batch: Any, dim: int = 0) -> Any:
        """A batch with its samples, along `dim`, in another order, in all tensors the same; for a nudge of 0 as it is.

        Args:
            batch: tensors, or lists, tuples and dicts of them.

        Returns:
            the same: of several arguments a tuple.
        """
        tensors = list(tensors_of(batch))
        samples = samples_of(tensors, dim)
        step, nudge = self._trace.step + 1, self._trace.settings["nudge"]
        if is_probe_step(step, self.steps):
            self._note(f"batch {step}", tensors, split=True)
        if nudge > 0:
            order = batch_order(samples, nudge, step)
            batch = reordered(batch, dim, order)
        return batch if len(batch) > 1 else batch[0]

    def begin(self, probe: Probe) -> None:
        """Record the outputs before the first step, to show that runs begin alike. The verdict does not need them."""
        self._look(probe)

    def step(self, loss: Tensor | float, probe: Probe) -> None:
        """Record a step that was made: its loss and, at probe steps, the outputs.

        Args:
            loss: of the whole step, a scalar; the mean over the processes is recorded.
            probe: makes the outputs that runs are compared by, a tensor of any shape, from inputs that are the same in
                every run. It is called at probe steps only, without gradients and in evaluation mode.
        """
        trace = self._trace
        if trace.step == self.steps:
            raise BadInput(f"step() was called more than steps={self.steps} times: give the number of steps you make")
        value = whole(loss.detach()) if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64)
        if value.numel() != 1:
            raise BadInput(f"step() got a loss of shape {list(value.shape)}: expected a scalar")
        if trace.losses.device != value.device:  # at the first step
            trace.losses = trace.losses.to(value.device, widest_float(value.device))
        if is_distributed():
            self._receive()
            self._on_its_way = trace.step, mean_over_processes(value.reshape(()).to(trace.losses.dtype))
        else:
            trace.losses[trace.step] = value
        trace.step += 1
        if is_probe_step(trace.step, self.steps):
            self._look(probe)

    def test(self, loss: float, accuracy: float = nan) -> None:
        """Record an evaluation, after this step, on data that is not trained on. The report shows it."""
        self._trace.tests[self._trace.step] = float(loss), float(accuracy)

    def finish(self) -> None:
        """Write `trace.npz` into the folder. BadInput if steps are missing, Stopped if it cannot be written."""
        trace = self.trace
        if trace.step < self.steps:
            raise BadInput(f"finish() after {trace.step} of {self.steps} steps: make them all, or give fewer")
        device = trace.losses.device
        precision = str(trace.first_outputs.dtype).removeprefix("torch.") if is_first() else ""
        for key, value in ({"precision": precision, "device": str(device)} | machine(device)).items():
            trace.settings.setdefault(key, value)
        if self._folder and is_first():
            trace_file.save(trace, self._folder)

    def state_dict(self) -> dict[str, Any]:
        """All that is recorded so far, to be saved with the states of model and optimizer."""
        trace = self.trace
        return {
            "settings": dict(trace.settings),
            "steps": self.steps,
            "losses": trace.losses[: trace.step].clone(),  # torch.save keeps all that a view is a part of
            "probes": dict(trace.probes),
            "tests": dict(trace.tests),
            "fingerprints": dict(trace.fingerprints),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the steps of a run that was stopped. BadInput if that was another run."""
        trace = self.trace
        old, new = state["settings"] | {"steps": state["steps"]}, trace.settings | {"steps": self.steps}
        changed = [key for key in old | new if key not in NO_EFFECT and old.get(key) != new.get(key)]
        if changed:
            said = ", ".join(f"{key}={old.get(key)}, not {new.get(key)}" for key in changed)
            raise BadInput(f"the state is that of a run with {said}: give its settings, or begin a new run")
        trace.step = len(state["losses"])
        trace.losses[: trace.step] = state["losses"]
        # without the last step of a shorter run, which is none to look at in a longer one
        trace.probes = {step: outputs for step, outputs in state["probes"].items() if is_probe_step(step, self.steps)}
        trace.tests, trace.fingerprints = dict(state["tests"]), dict(state["fingerprints"])

    def _receive(self) -> None:
        """Record the loss that is on its way, if one is."""
        if self._on_its_way:
            index, arrived = self._on_its_way
            self._trace.losses[index] = arrived()
            self._on_its_way = None

    def _note(self, name: str, tensors: Iterable[Tensor], split: bool) -> None:
        """Add numbers to the fingerprint of a name."""
        fingerprints = self._trace.fingerprints
        fingerprints[name] = fingerprint(tensors, before=fingerprints.get(name, NONE), split=split)

    @torch.no_grad()
    def _look(self, probe: Probe) -> None:
        trace = self._trace
        with evaluating(*self._models):
            outputs = probe()
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.numel() == 0:
            made = f"{outputs.dtype} {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise BadInput(f"the probe made {made}: expected a tensor of floating point numbers, logits say")
        outputs = whole(outputs)
        before = trace.first_outputs if trace.probes else outputs
        if (outputs.shape, outputs.dtype) != (before.shape, before.dtype):
            both = " and ".join(f"{each.dtype} of shape {list(each.shape)}" for each in (before, outputs))
            raise BadInput(f"the probe made {both}, after {trace.step} steps: expected one shape and type")
        if is_first():
            trace.probes[trace.step] = outputs.to("cpu", copy=True)  # of weights, say, which change


def _make(folder: Path) -> None:
    """The folder of a run. BadInput if it holds one that is finished, or cannot be made."""
    if (folder / trace_file.FILE).exists():
        raise BadInput(f"{folder} holds a finished run: delete its {trace_file.FILE}, or give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made ({error.strerror}): give another folder") from error


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode, and after it each of their modules in the mode that it had."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
