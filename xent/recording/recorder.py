"""The recorder of a training: of anyone's loop, and of ours."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xent.recording import trace_file
from xent.recording.errors import BadInput
from xent.recording.given import moments
from xent.recording.machine import machine
from xent.recording.nudge import bits_of_weights, nudge_weights, order_of_batch
from xent.recording.processes import is_first, mean_of_processes, whole
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

    The host waits for the device at probe steps only: after 1, 2, 4, 8, ... steps and the last. A training on several
    processes calls it alike in each of them; the first one writes.

    Attributes:
        trace: what is recorded so far.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        steps: int,
        settings: Mapping[str, Any] | None = None,
        nudge: int = 0,
    ) -> None:
        """BadInput if the folder holds a finished run.

        Args:
            folder: where to write the trace; None keeps it in memory.
            steps: how many the training is to make.
            settings: by their names, all that the training depends on, as JSON values: what is compared, the seed, and
                the precision, where the outputs are not in it. The machine, and PyTorch, are added.
            nudge: draws what must not matter; 0 changes nothing.
        """
        if steps < 1 or nudge < 0:
            raise BadInput(f"steps={steps}, nudge={nudge}: expected a step or more, and a nudge of 0 or more")
        try:
            own = json.loads(json.dumps(dict(settings or {})))
        except TypeError as error:
            raise BadInput(f"settings={settings}: expected numbers, texts and lists of them ({error})") from error
        self._folder = Path(folder) if folder else None
        if self._folder and (self._folder / trace_file.FILE).exists():
            raise BadInput(f"{folder} holds a finished run: delete its {trace_file.FILE}, or give another folder")
        self._models: list[nn.Module] = []
        self._bits = bits_of_weights(nudge)
        losses = torch.full((steps,), nan, dtype=torch.float64)
        self.trace = Trace({"seed": 0} | own | {"nudge": nudge}, losses)

    @property
    def steps(self) -> int:
        """How many the training is to make."""
        return len(self.trace.losses)

    @property
    def seed(self) -> int:
        """That of the settings, to draw first weights and batches from."""
        return int(self.trace.settings["seed"])

    def nudge(self, model: nn.Module) -> None:
        """Move every weight by one unit in the last place, as drawn from the run's nudge; one of 0 moves nothing.

        Once for each module that is trained, before the first step, and before the state of a stopped run is loaded.
        They are in evaluation mode where the probe is taken. Weights sharded by `fully_shard` are moved as the whole
        would be; BadInput for those of FullyShardedDataParallel: nudge the model before it takes it.
        """
        trace = self.trace
        if trace.step > 0:
            raise BadInput(f"nudge() after {trace.step} steps: nudge the model first, then load its state")
        added = moments(whole(parameter) for parameter in model.parameters() if not parameter.is_meta)
        before = trace.given.get("first weights", (0.0, 0.0))
        trace.given["first weights"] = before[0] + added[0], before[1] + added[1]
        if trace.settings["nudge"] > 0:
            nudge_weights(model, self._bits)
        self._models.append(model)

    def reorder(self, *batch: Tensor, dim: int = 0) -> Any:
        """The samples of a batch, of each tensor along `dim`, in another order; in theirs for a nudge of 0.

        Returns:
            as many tensors as were given: a tuple, or the only one.
        """
        sizes = {tensor.shape[dim] if isinstance(tensor, Tensor) else type(tensor).__name__ for tensor in batch}
        (samples, *others) = sizes or [0]
        if others or not isinstance(samples, int):
            raise BadInput(f"reorder() got {' and '.join(map(str, sizes))} samples: expected tensors of as many")
        step, nudge = self.trace.step + 1, self.trace.settings["nudge"]
        if is_probe_step(step, self.steps):
            self.trace.given[f"batch {step}"] = moments(batch, in_parts=True)
        if nudge > 0:
            order = order_of_batch(samples, nudge, step)
            if any(tensor.is_cuda for tensor in batch):
                order = order.pin_memory()  # for the host not to wait
            batch = tuple(tensor.index_select(dim, order.to(tensor.device, non_blocking=True)) for tensor in batch)
        return batch if len(batch) > 1 else batch[0]

    def begin(self, probe: Probe) -> None:
        """Record the outputs before the first step, which show that runs begin alike. No verdict needs it."""
        self._look(probe)

    def step(self, loss: Tensor | float, probe: Probe) -> None:
        """Record a step that was made: its loss and, after so many, the outputs.

        Args:
            loss: of the step, a scalar; of several processes the mean is recorded.
            probe: makes the outputs that runs are compared by, a tensor of any shape, from inputs that are the same in
                every run. It is called at probe steps only, without gradients and in evaluation mode.
        """
        trace = self.trace
        if trace.step == self.steps:
            raise BadInput(f"a step after the last: the recorder was given steps={self.steps}")
        value = whole(torch.as_tensor(loss).detach())
        if value.numel() != 1:
            raise BadInput(f"step() got a loss of shape {list(value.shape)}: expected a scalar")
        precision = torch.float32 if value.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        value = mean_of_processes(value.reshape(()).to(precision))
        if trace.losses.device != value.device:  # at the first step
            trace.losses = trace.losses.to(value)
        trace.losses[trace.step] = value
        trace.step += 1
        if is_probe_step(trace.step, self.steps):
            self._look(probe)

    def test(self, loss: float, accuracy: float = nan) -> None:
        """Record an evaluation after this step, on data that is not trained on: it stands beside the verdict."""
        self.trace.tests[self.trace.step] = float(loss), float(accuracy)

    def finish(self) -> None:
        """Write `trace.npz` into the folder, in the first process. BadInput if steps are missing."""
        trace = self.trace
        if trace.step < self.steps:
            raise BadInput(f"finish() after {trace.step} of {self.steps} steps: make them all, or give fewer")
        device = trace.losses.device
        precision = str(trace.first_outputs.dtype).removeprefix("torch.") if is_first() else ""
        for key, value in ({"precision": precision, "device": str(device)} | machine(device)).items():
            trace.settings.setdefault(key, value)
        if self._folder and is_first():
            self._folder.mkdir(parents=True, exist_ok=True)
            trace_file.save(trace, self._folder)

    def state_dict(self) -> dict[str, Any]:
        """All that is recorded so far, to be saved with the states of model and optimizer."""
        trace = self.trace
        return {
            "settings": trace.settings,
            "steps": self.steps,
            "losses": trace.losses[: trace.step].clone(),  # a view would be saved with all that it is a view of
            "probes": trace.probes,
            "tests": trace.tests,
            "given": trace.given,
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
        trace.tests, trace.given = dict(state["tests"]), dict(state["given"])

    @torch.no_grad()
    def _look(self, probe: Probe) -> None:
        trace = self.trace
        with evaluating(*self._models):
            outputs = probe()
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
            made = outputs.dtype if isinstance(outputs, Tensor) else type(outputs).__name__
            raise BadInput(f"the probe made {made}: expected a tensor of floating point numbers, logits say")
        outputs = whole(outputs)
        if trace.probes and outputs.shape != (before := trace.first_outputs.shape):
            shapes = f"{list(before)}, then {list(outputs.shape)} after {trace.step} steps"
            raise BadInput(f"the probe made {shapes}: expected one shape, of inputs that stay the same")
        if is_first():
            trace.probes[trace.step] = outputs.to("cpu", copy=True)  # some are weights, or memory of a CUDA graph


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
