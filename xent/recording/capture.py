"""Captures of a step: sketches of its tensors in order, from weights and inputs to gradients and updates."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Any, NamedTuple
from weakref import finalize, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from xent.recording.processes import world_size
from xent.recording.sketch import bit_hash, sketch

WEIGHT, BUFFER = "weight", "buffer"  # before the step
INPUT, OUTPUT = "input of", "output of"  # of a module
LOSS = "loss"
GRADIENT_AT = "gradient at the output of"  # a module
GRADIENT = "gradient of"  # a parameter, as the optimizer sees it
UPDATE = "update of"  # a parameter or a buffer
KINDS = (WEIGHT, BUFFER, INPUT, OUTPUT, LOSS, GRADIENT_AT, GRADIENT, UPDATE)  # in the order of a step

ROOT = "model"
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")  # parts of paths, of torch.compile and of checkpointing


class Call(NamedTuple):
    """A call of a module: its path, and which call in the step it is."""

    path: str
    call: int


class Key(NamedTuple):
    """What a tensor is; as text, its name.

    Attributes:
        kind: one of KINDS.
        path: of the module, the parameter or the buffer.
        part: which argument or result it is; empty for the first.
        call: which call of the module in the step, or which update of the parameter, from 1.
    """

    kind: str
    path: str = ""
    part: str = ""
    call: int = 1

    @property
    def of(self) -> Call:
        """The call of the module whose input, output or gradient it is."""
        return Call(self.path, self.call)

    def __str__(self) -> str:
        part, call = f" ({self.part})" if self.part else "", f" #{self.call}" if self.call > 1 else ""
        return f"{self.kind} {self.path}{part}{call}".strip()


class Captured(NamedTuple):
    """A tensor of a step.

    Attributes:
        shape: of the tensor.
        module: the class of the module whose input or output it is, or the gradient at that; else empty.
        caller: the call of the module that calls that module; None if no captured module does.
        sketch: see xent.recording.sketch; on the CPU when the step is over.
        bits: the hash of its bits; of an update, of what is there after it. An integer when the step is over.
    """

    shape: tuple[int, ...]
    module: str
    caller: Call | None
    sketch: Tensor
    bits: int | Tensor = 0


Captures = dict[int, dict[Key, Captured]]  # by the step, in order


class Capture:
    """Captures one step of a training, by hooks on modules and optimizers.

    Modules are captured in forward passes with gradients, but not in those that a checkpoint repeats. With several
    processes, each of which has inputs of its own, only weights, loss, gradients and updates are captured. Gradients
    are those that the innermost of nested optimizers gets. What runs inside `torch.compile` is not seen.
    """

    def __init__(self, models: list[nn.Module]) -> None:
        """Begin to capture the step that comes next.

        Args:
            models: those that are trained.
        """
        self._models = models
        self._tensors: dict[Key, Captured] = {}
        self._before_loss: Key | None = None  # the last tensor of the last forward pass
        self._sketches: dict[int, _Sketched] = {}  # by identity: an output is often an input, a mask often many
        self._counts = Counter[tuple[str, str]]()
        self._running: list[Call] = []  # modules that were called and have not returned
        self._parameters: dict[Tensor, str] = {}
        self._weights: dict[str, Tensor] = {}  # sketches of parameters and buffers, before the update
        self._steps: list[_StepOfOptimizer] = []  # those under way, the innermost last
        self._handles: list[RemovableHandle] = [
            register_optimizer_step_pre_hook(_Hook(self, Capture._before_update)),
            register_optimizer_step_post_hook(_Hook(self, Capture._after_update)),
        ]
        self.stop = finalize(self, _remove, self._handles)  # also when a training ends by an exception
        for path, module in _named(models, nn.Module.named_modules) if world_size() == 1 else ():
            if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                before, after = _Hook(self, Capture._before_forward, path), _Hook(self, Capture._after_forward, path)
                self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                self._handles.append(module.register_forward_hook(after))

    def finish(self, loss: Tensor) -> dict[Key, Captured]:
        """Remove the hooks, and return what was captured, in order.

        Args:
            loss: of the whole step, a scalar.
        """
        self.stop()
        updated = {key.path for key in self._tensors if key.kind == UPDATE}
        for parameter, name in self._parameters.items():
            if parameter.requires_grad and name not in updated:  # its optimizer has no hooks
                self._note_gradients([parameter])
                self._note_update(parameter, name)
        for name, buffer in _named(self._models, nn.Module.named_buffers) if self._parameters else ():
            self._note_update(buffer, name)
        tensors = list(self._tensors.items())
        place = list(self._tensors).index(self._before_loss) + 1 if self._before_loss else 0
        tensors.insert(place, (Key(LOSS), Captured((), "", None, sketch(loss), bit_hash(loss))))
        return {key: value._replace(sketch=value.sketch.cpu(), bits=int(value.bits)) for key, value in tensors}

    def note_weights(self) -> None:
        """Note parameters and buffers, before anything else. Wrappers may have replaced them since the step before."""
        if self._parameters:
            return
        self._parameters = {tensor: name for name, tensor in _named(self._models, nn.Module.named_parameters)}
        for parameter, name in self._parameters.items():
            self._note(Key(WEIGHT, name), parameter)
            self._weights[name] = self._sketched(parameter).sketch
        for name, buffer in _named(self._models, nn.Module.named_buffers):
            self._note(Key(BUFFER, name), buffer)
            self._weights[name] = self._sketched(buffer).sketch

    def _note(self, key: Key, tensor: Tensor, module: str = "") -> None:
        if tensor.numel() > 0:  # a shard of another process may be empty
            caller = self._running[-1] if self._running else None
            _, _, numbers, bits = self._sketched(tensor)
            self._tensors[key] = Captured(tuple(tensor.shape), module, caller, numbers, bits)
            self._before_loss = key if key.kind in (WEIGHT, BUFFER, INPUT, OUTPUT) else self._before_loss

    def _sketched(self, tensor: Tensor) -> "_Sketched":
        known, version = self._sketches.get(id(tensor)), -1 if tensor.is_inference() else tensor._version
        if known is None or known.tensor() is not tensor or known.version != version:
            known = self._sketches[id(tensor)] = _Sketched(ref(tensor), version, sketch(tensor), bit_hash(tensor))
        return known

    def _is_training(self) -> bool:
        """Whether a forward pass is one of the training, with gradients and not repeated by a checkpoint."""
        is_repeated = torch._C._current_graph_task_id() != -1  # as in torch.utils.module_tracker
        return torch.is_grad_enabled() and not is_repeated and not torch._C._are_functorch_transforms_active()

    def _before_forward(self, path: str, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if not self._is_training():
            return
        self.note_weights()
        call = self._next(INPUT, path).call
        for part, tensor in _inputs(module, args, kwargs):
            self._note(Key(INPUT, path, part, call), tensor, type(module).__name__)
        self._running.append(Call(path, call))

    def _after_forward(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        if not self._is_training():
            return
        if path not in [running.path for running in self._running]:
            return  # it was called without gradients
        while self._running[-1].path != path:  # which an exception ended
            self._running.pop()
        call = self._running.pop().call
        for part, tensor in _tensors_of(output):
            of, gradient = type(module).__name__, Key(GRADIENT_AT, path, part, call)
            self._note(Key(OUTPUT, path, part, call), tensor, of)
            if tensor.requires_grad:
                self._handles.append(tensor.register_hook(_Hook(self, Capture._note_gradient, gradient, of)))

    def _note_gradient(self, key: Key, module: str, gradient: Tensor) -> None:
        if key not in self._tensors:  # a second backward pass through it adds to what the optimizer sees
            self._note(key, gradient, module)

    def _before_update(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.note_weights()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        step = _StepOfOptimizer([parameter for parameter in parameters if parameter in self._parameters])
        for outer in self._steps:
            self._forget(outer)
            outer.is_innermost = False
        self._steps.append(step)
        _, *others = args
        closure = others[0] if others else kwargs.get("closure")
        if closure is None:
            step.gradients = self._note_gradients(step.parameters)
            return None

        def noting() -> Any:  # the closure makes the forward and the backward pass
            loss = closure()
            self._forget(step)
            step.gradients = self._note_gradients(step.parameters)
            return loss

        return ((args[0], noting, *others[1:]), kwargs) if others else (args, kwargs | {"closure": noting})

    def _after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        step = self._steps.pop() if self._steps else None
        for parameter in step.parameters if step and step.is_innermost else ():
            self._note_update(parameter, self._parameters[parameter])

    def _note_gradients(self, parameters: list[Tensor]) -> list[Key]:
        keys = []
        for parameter in parameters:
            if parameter.grad is not None:
                keys.append(self._next(GRADIENT, self._parameters[parameter]))
                self._note(keys[-1], parameter.grad)
        return keys

    def _forget(self, step: "_StepOfOptimizer") -> None:
        for key in step.gradients:
            self._counts[key[:2]] -= 1
            self._tensors.pop(key, None)

    def _note_update(self, tensor: Tensor, name: str) -> None:
        self._sketches.pop(id(tensor), None)  # a write into `.data` does not show in the version
        before, (_, _, after, bits) = self._weights.get(name), self._sketched(tensor)
        if tensor.numel() > 0 and before is not None and before.shape == after.shape:
            self._tensors[self._next(UPDATE, name)] = Captured(tuple(tensor.shape), "", None, after - before, bits)
        self._weights[name] = after

    def _next(self, kind: str, path: str) -> Key:
        """The key of the next of its kind in this step."""
        self._counts[kind, path] += 1
        return Key(kind, path, call=self._counts[kind, path])


class _Sketched(NamedTuple):
    """A tensor whose sketch and hash are known, as long as it has this version."""

    tensor: ref[Tensor]
    version: int
    sketch: Tensor
    bits: Tensor


class _StepOfOptimizer:
    """The step of an optimizer that is under way.

    Attributes:
        parameters: that it updates, of those that are captured.
        gradients: the keys under which their gradients were noted.
        is_innermost: whether it calls the step of no other optimizer.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.gradients: list[Key] = []
        self.is_innermost = True


class _Hook:
    """Calls a method of a capture while that is there. A copy of it, or a saved one, calls nothing."""

    def __init__(self, capture: Capture | None, method: Callable[..., Any], *arguments: Any) -> None:
        self._capture, self._method, self._arguments = capture and ref(capture), method, arguments

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling():  # else torch.compile would look into it
            return None
        capture = self._capture and self._capture()
        return self._method(capture, *self._arguments, *arguments) if capture else None

    def __reduce__(self) -> Any:
        return _Hook, (None, _remove)


def _remove(handles: Iterable[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _named(models: list[nn.Module], inside: Callable[[nn.Module], Iterator[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    """What is inside models, by dotted paths. Of several models, a path begins with the class, numbered if need be."""
    classes = [type(model).__name__ for model in models]
    named = []
    for i, (model, name) in enumerate(zip(models, classes)):
        number = classes[:i].count(name) + 1
        root = ROOT if len(models) == 1 else name if number == 1 else f"{name}_{number}"
        for path, thing in inside(model):
            parts = [part for part in path.split(".") if part and part not in WRAPPERS]
            named.append((".".join(parts if len(models) == 1 and parts else [root, *parts]), thing))
    return named


def _inputs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """The tensors that a module is called with, by the name of the parameter; the first parameter's has none."""
    parameters = _parameters_of(type(module).forward)
    names = [*parameters[: len(args)], *map(str, range(len(parameters), len(args)))]
    inputs = []
    for name, value in [*zip(names, args), *kwargs.items()]:
        of_first = "" if name == (parameters or [""])[0] else name
        inputs += [(f"{of_first}{part}", tensor) for part, tensor in _tensors_of(value)]
    return inputs


@cache
def _parameters_of(forward: Callable[..., Any]) -> list[str]:
    """The names of the positional parameters of a method."""
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    _, *parameters = signature(forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in positional]


def _tensors_of(value: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """The tensors of an argument or result, by where they are in it, such as `[1]`; the first element has no name."""
    if isinstance(value, Tensor):
        return [] if value.is_nested else [(path.removeprefix("[0]"), value)]
    if isinstance(value, list | tuple):
        parts = [(f"{path}[{number}]", part) for number, part in enumerate(value)]
    elif isinstance(value, Mapping):
        parts = [(f"{path}.{key}".lstrip("."), part) for key, part in value.items()]
    elif is_dataclass(value):
        parts = [(f"{path}.{field.name}".lstrip("."), getattr(value, field.name)) for field in fields(value)]
    else:
        return []
    return [tensor for inner, part in parts for tensor in _tensors_of(part, inner)]


def as_rows(captures: Captures) -> list[tuple[Any, ...]]:
    """Captures as plain values, to be saved: of each tensor its step, key, shape, module, caller, hash and sketch."""
    return [
        (step, [*key], [*shape], module, caller and [*caller], bits, numbers)
        for step, tensors in captures.items()
        for key, (shape, module, caller, numbers, bits) in tensors.items()
    ]


def from_rows(rows: Iterable[tuple[Any, ...]]) -> Captures:
    """The captures that `as_rows` made rows of."""
    captures: Captures = {}
    for step, key, shape, module, caller, bits, numbers in rows:
        captured = Captured(tuple(shape), str(module), caller and Call(*caller), numbers, int(bits))
        captures.setdefault(int(step), {})[Key(*key)] = captured
    return captures
