"""The recorder of a training, in anyone's loop or ours."""

import pickle
import random
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xent.recording.batch import reordered, samples_of, tensors_of
from xent.recording.capture import Capture, as_rows, from_rows
from xent.recording.device import accelerator, forked, widest_float
from xent.recording.errors import BadInput
from xent.recording.fingerprint import NONE, fingerprint, sample_marks
from xent.recording.float64 import casts_seen_through, widen
from xent.recording.nudge import batch_order, check_can_nudge, nudge_weights
from xent.recording.processes import rank, sum_over_ranks, whole, world_size
from xent.recording.settings import machine_settings, precision_of, run_settings
from xent.recording.sketch import bit_hash
from xent.recording.streams import stream
from xent.recording.trace import FILE, Trace, is_octave, is_probe_step, save

Probe = Callable[[], Tensor]
PROBED = torch.float64, torch.float32, torch.float16, torch.bfloat16
BUFFER = 1024  # losses at first, where their number is open
FIRST_BATCHES = (1, 2, 4, 8)  # the steps at which each sample of the batch is recorded


class Recorder:
    """Records a training, for `python -m xent.compare` to judge.

    >>> run = Recorder("runs/mine_1", settings={"kernel": "mine", "seed": 1}, nudge=nudge, steps=200)
    >>> run.nudge(model)
    >>> for x, y in loader:
    ...     x, y = run.reorder(x, y)
    ...     loss = train_step(model, x, y)
    ...     run.step(loss, probe=lambda: model(fixed_inputs))
    >>> run.finish()

    The host waits for the device at probe steps only: after 1, 2, 4, 8, ... steps and after the last. With several
    processes, call it on every rank; rank 0 writes.

    Attributes:
        trace: what is recorded so far.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
        nudge: int | None = None,
        where: int | Sequence[int] | None = None,
    ) -> None:
        """Begin to record a training.

        Args:
            folder: where to write the trace; None keeps it in memory.
            steps: the number of steps that the training is to make; None if that shows as it goes, as where it stops
                early.
            settings: everything that the training depends on: what you compare, the `seed`, and the `precision` if the
                training computes in another type than its outputs have (`bfloat16` under autocast). The device, its
                processor and PyTorch's version are added. A setting that is the folder is left out.
            nudge: draws what must not matter; 0 changes nothing. Defaults to that of the settings, or to 0.
            where: the steps of which every tensor is captured, so that comparison can name the first one that differs:
                the first 3 with `where=3`, these two with `where=[3, 100]`. In them `reorder` changes nothing. Matched
                runs share it.

        Raises:
            BadInput: the folder holds a finished run or cannot be made, or an argument is out of range.
        """
        nudge = (settings or {}).get("nudge", 0) if nudge is None else nudge
        are_integers = all(type(number) is int for number in (nudge, 1 if steps is None else steps))  # and no bool
        if not are_integers or nudge < 0 or (steps is not None and steps < 1):
            expected = "expected an integer of 1 or more, or None, and one of 0 or more"
            raise BadInput(f"steps={steps!r}, nudge={nudge!r}: {expected}")
        self._folder = Path(folder) if folder else None
        if self._folder and (self._folder / FILE).exists():
            raise BadInput(f"{folder} holds a finished run: delete its {FILE}, or give another folder")
        try:
            (self._folder or Path()).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder} cannot be made ({error.strerror}): give another folder") from error
        self._steps, self._probe = steps, _no_outputs
        self._where = captured_steps(where, steps)
        self._capture: Capture | None = None
        self._models: list[nn.Module] = []
        self._bits = stream("nudged weights", nudge)
        losses = torch.full((steps or BUFFER,), nan, dtype=torch.float64)
        self.trace = Trace(run_settings({**(settings or {}), **({"where": where} if where else {})}, nudge), losses)
        of_folder = [key for key, value in self.trace.settings.items() if folder and str(value) == str(folder)]
        for key in of_folder:  # where a run is written changes nothing in it
            del self.trace.settings[key]
        if casts_seen_through() is not None:
            self.trace.settings["precision"] = "float64"

    @property
    def steps(self) -> int:
        """The number of steps that the training is to make; 0 if that is not known."""
        return self._steps or 0

    @property
    def steps_made(self) -> int:
        """The number of steps recorded so far."""
        return self.trace.step

    @property
    def seed(self) -> int:
        """The seed of the settings: draw first weights and batches from it."""
        return int(self.trace.settings["seed"])

    def nudge(self, model: nn.Module) -> None:
        """Move every weight by one ULP (unit in the last place), as drawn from the run's nudge; 0 moves none.

        Call it in every run, once for each module that is trained: before the first step, and before you load the state
        of a stopped run. Probes are taken with these modules in evaluation mode. Weights sharded by `fully_shard` move
        as the whole would.

        Raises:
            BadInput: steps were made before it, a module was nudged twice, weights have no values yet, or the model is
                a FullyShardedDataParallel: nudge the model before you wrap it.
        """
        trace = self.trace
        if trace.step > 0:
            raise BadInput(f"nudge() after {trace.step} steps: nudge the model first, then load its state")
        if any(model is nudged for nudged in self._models):
            raise BadInput("nudge() got the same module twice: nudge each module once")
        check_can_nudge(model)
        if casts_seen_through() is not None:
            widen(model)
        self._fingerprint("first weights", (whole(parameter) for parameter in model.parameters()), split=False)
        if trace.settings["nudge"] > 0:
            nudge_weights(model, self._bits, precision_of(trace.settings))
        self._models.append(model)
        self._begin_capture()

    def reorder(self, *batch: Any, dim: int = 0) -> Any:
        """Put the samples of a batch in the order of the nudge, the same in all tensors. A nudge of 0 changes nothing.

        Args:
            batch: tensors or NumPy arrays, and lists, tuples, dicts and dataclasses of them, or what is registered with
                PyTorch as a pytree. A list inside a batch holds a sample in each element. Numbers, text and None go
                through, as does a list of them that is not as long as there are samples.
            dim: the dimension of the samples in tensors.

        Returns:
            the batch in the same form and types; a tuple for several arguments.

        Raises:
            BadInput: the batch holds anything else, or parts of different numbers of samples.
        """
        whole_batch = batch[0] if len(batch) == 1 else batch
        samples = samples_of(whole_batch, dim)
        step, nudge = self.trace.step + 1, self.trace.settings["nudge"]
        if self._capture:
            self._capture.note_weights()
        if is_octave(step, self.steps):
            self._fingerprint(f"batch {step}", tensors_of(whole_batch), split=True)
        if step in FIRST_BATCHES and world_size() == 1:
            marks = sample_marks(whole_batch, dim, samples)
            self.trace.samples[step] = torch.cat([self.trace.samples.get(step, marks[:0]), marks])
        keeps_order = nudge == 0 or step in self._where  # in another order, activations do not stand beside each other
        return whole_batch if keeps_order else reordered(whole_batch, dim, batch_order(samples, nudge, step))

    def begin(self, probe: Probe) -> None:
        """Record the outputs before the first step, to show that runs begin alike. The verdict does not need them."""
        self._record_probe(probe)

    def step(self, loss: Tensor | float, probe: Probe) -> None:
        """Record a step after it was made: its loss and, at probe steps, the outputs.

        Args:
            loss: the loss of the whole step, a scalar. The mean over the processes is recorded.
            probe: returns the outputs by which runs are compared, a tensor of any shape, from inputs that are the same
                in every run. It is called at probe steps only, without gradients and in evaluation mode. PyTorch's
                random number generators are put back after it.

        Raises:
            BadInput: there are more steps than `steps`, the loss is no scalar, or the probe returns no floating-point
                tensor, or one of another shape or type than before.
        """
        trace = self.trace
        if trace.step == self._steps:
            raise BadInput(f"step() was called more than steps={self.steps} times: give the number of steps you make")
        try:
            value = whole(loss.detach()) if isinstance(loss, Tensor) else torch.tensor(float(loss), dtype=torch.float64)
        except (TypeError, ValueError):
            raise BadInput(f"step() got {type(loss).__name__} as the loss: expected a number") from None
        if value.numel() != 1 or value.is_complex():
            kind = f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
            raise BadInput(f"step() got a loss of {kind}: expected a real scalar")
        if trace.losses.device != value.device:  # at the first step
            trace.losses = trace.losses.to(value.device, widest_float(value.device))
        if trace.step == len(trace.losses):  # of an open number of steps
            trace.losses = torch.cat([trace.losses, torch.full_like(trace.losses, nan)])
        # DistributedDataParallel takes the gradient of this mean over the processes.
        trace.losses[trace.step] = sum_over_ranks(value.reshape(()).to(trace.losses.dtype)) / world_size()
        trace.step, self._probe = trace.step + 1, probe
        if self._capture:
            trace.captures[trace.step] = self._capture.finish(trace.losses[trace.step - 1])
        if is_probe_step(trace.step, self.steps):
            self._record_probe(probe)
        self._begin_capture()

    def test(self, loss: float, accuracy: float = nan) -> None:
        """Record an evaluation after this step, on data that is not trained on. The report shows it.

        Args:
            loss: the mean over that data.
            accuracy: between 0 and 1; NaN if it is not measured.
        """
        self.trace.tests[self.trace.step] = float(loss), float(accuracy)

    def finish(self) -> None:
        """Complete the trace, and write it into the folder as `trace.npz`.

        If the number of steps was open, the outputs after the last are recorded now: call it before weights change.

        Raises:
            BadInput: steps are missing.
            Stopped: the file cannot be written.
        """
        trace = self.trace
        if trace.step < self.steps or trace.step == 0:
            advice = "make them all, or give fewer, or steps=None if their number is open"
            raise BadInput(f"finish() after {trace.step} of {self.steps or 'any'} steps: {advice}")
        if self._steps is None and trace.step not in trace.probes:
            self._record_probe(self._probe)
        trace.losses = trace.losses[: trace.step]
        trace.casts |= casts_seen_through() or set()
        device = trace.losses.device
        precision = str(trace.first_outputs.dtype).removeprefix("torch.") if rank() == 0 else ""
        known = {"precision": precision, "device": str(device)} | machine_settings(device)
        trace.settings = known | trace.settings
        if self._folder and rank() == 0:
            save(trace, self._folder)

    def state_dict(self) -> dict[str, Any]:
        """The record so far, to be saved with the states of model and optimizer."""
        trace = self.trace
        losses = trace.losses[: trace.step].clone()  # of a view, torch.save would save the whole storage
        names = "settings", "probes", "tests", "fingerprints", "samples", "bits"
        parts = {name: dict(getattr(trace, name)) for name in names}
        return {"steps": self.steps, "losses": losses, **parts, "captures": as_rows(trace.captures)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the record of a stopped run, after its steps.

        Raises:
            BadInput: the state is that of a run with other settings.
        """
        trace = self.trace
        old, new = state["settings"] | {"steps": state["steps"]}, trace.settings | {"steps": self.steps}
        changed = [f"{key}={old.get(key)}, not {new.get(key)}" for key in old | new if old.get(key) != new.get(key)]
        if changed:
            raise BadInput(f"the state is that of a run with {', '.join(changed)}: give its settings, or a new run")
        trace.step = len(state["losses"])
        missing = max(0, trace.step - len(trace.losses))  # of an open number of steps
        trace.losses = torch.cat([trace.losses, trace.losses.new_full((missing,), nan)])
        trace.losses[: trace.step] = state["losses"]
        # the last step of a shorter run is no probe step of a longer one
        trace.probes = {step: outputs for step, outputs in state["probes"].items() if is_probe_step(step, self.steps)}
        trace.tests, trace.fingerprints, trace.samples = (dict(state[k]) for k in ("tests", "fingerprints", "samples"))
        trace.bits = {step: bits for step, bits in state["bits"].items() if step in trace.probes}
        trace.captures = from_rows(state["captures"])
        self._begin_capture()

    def _begin_capture(self) -> None:
        """Capture the next step, if that was asked for."""
        if self._capture:
            self._capture.stop()
        self._capture = Capture(self._models) if self.trace.step + 1 in self._where else None

    def _fingerprint(self, name: str, tensors: Iterable[Tensor], split: bool) -> None:
        """Add these tensors to the fingerprint of this name."""
        fingerprints = self.trace.fingerprints
        fingerprints[name] = fingerprint(tensors, before=fingerprints.get(name, NONE), split=split)

    @torch.no_grad()
    def _record_probe(self, probe: Probe) -> None:
        trace = self.trace
        states = _other_generators()
        with evaluating(*self._models), forked(accelerator()):
            outputs = probe()
        if drawn := [name for name, state in _other_generators().items() if state != states[name]]:
            what = f"the probe drew random numbers of {' and '.join(drawn)}, which moves those of the training"
            warnings.warn(f"{what}: draw its inputs once, before the first step", stacklevel=3)
        is_tensor = isinstance(outputs, Tensor)
        kind = f"{outputs.dtype} of shape {list(outputs.shape)}" if is_tensor else type(outputs).__name__
        if not is_tensor or outputs.dtype not in PROBED or outputs.layout != torch.strided or outputs.numel() == 0:
            raise BadInput(f"the probe made {kind}: expected a dense tensor of floating point numbers, logits say")
        outputs = whole(outputs)
        before = trace.first_outputs if trace.probes else outputs
        if (outputs.shape, outputs.dtype) != (before.shape, before.dtype):
            both = f"{before.dtype} of shape {list(before.shape)} and {kind}"
            raise BadInput(f"the probe made {both}, after {trace.step} steps: expected one shape and type")
        state = [tensor for model in self._models for tensor in (*model.parameters(), *model.buffers())]
        if state:
            hashes = torch.stack([bit_hash(tensor).cpu() for tensor in state])
            trace.bits[trace.step] = int(bit_hash(hashes))
        if rank() == 0:
            trace.probes[trace.step] = outputs.to("cpu", copy=True)  # a copy: the outputs may be weights, which change


def _no_outputs() -> Tensor:
    raise BadInput("finish() without outputs: call step() with a probe first")


def _other_generators() -> dict[str, bytes]:
    """The states of the generators that are not PyTorch's, which are put back."""
    return {"Python": pickle.dumps(random.getstate()), "NumPy": pickle.dumps(np.random.get_state())}


def captured_steps(where: int | Sequence[int] | None, steps: int | None) -> Container[int]:
    """The steps of which every tensor is captured.

    Args:
        where: see `Recorder`.
        steps: of the training; None if their number is open.

    Raises:
        BadInput: they are no steps of it.
    """
    whole_number = int | np.integer
    numbers = range(1, where + 1) if isinstance(where, whole_number) else where or ()
    last = np.inf if steps is None else steps
    are_steps = all(isinstance(number, whole_number) and 1 <= number <= last for number in numbers)
    if not are_steps or (where and not numbers):
        up_to = f" up to {steps}" if steps else ""
        expected = f"expected how many of the first steps to capture, or a list of steps{up_to}"
        raise BadInput(f"where={where}: {expected}")
    return frozenset(numbers)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in evaluation mode, and each of their modules back in its own mode afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]  # parents first
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.train(training)  # which may do more than set a flag, as in loralib
