"""Captures of a step: sketches of its tensors in order, from weights and inputs to gradients and updates."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from xent.recording.processes import world_size
from xent.recording.sketch import sketch

WEIGHT, BUFFER = "weight", "buffer"  # before the step
INPUT, OUTPUT = "input of", "output of"  # of modules
LOSS = "loss"
GRADIENT_AT = "gradient at the output of"  # a module
GRADIENT = "gradient of"  # a parameter, as the optimizer sees it
UPDATE = "update of"  # a parameter


class Captured(NamedTuple):
    """A tensor of a step.

    Attributes:
        shape: of the tensor.
        module: the class of the module whose input or output it is, or the gradient at that; else empty.
        sketch: see xent.recording.sketch; on the CPU when the step is over.
    """

    shape: tuple[int, ...]
    module: str
    sketch: Tensor


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
        self._tensors: dict[str, Captured] = {}  # by what they are, in order
        self._before_loss = 0  # how many of them were there when the last forward pass ended
        self._latest: tuple[ref[Tensor], int, Tensor] | None = None  # an output is often the next module's input
        self._parameters: dict[Tensor, str] = {}
        self._weights: dict[str, Tensor] = {}  # their sketches, before the update
        self._steps_of_optimizers: list[_StepOfOptimizer] = []  # which are under way, the innermost last
        self._tracker = ModuleTracker()
        self._handles = [
            register_optimizer_step_pre_hook(self._before_update),
            register_optimizer_step_post_hook(self._after_update),
        ]
        for name, module in _named(models, nn.Module.named_modules) if world_size() == 1 else ():
            before, after = partial(self._before_forward, name), partial(self._after_forward, name)
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after))

    def finish(self, loss: Tensor) -> dict[str, Captured]:
        """Remove the hooks, and return what was captured, in order.

        Args:
            loss: of the whole step, a scalar.
        """
        self.stop()
        self._note_weights()
        updated = {name for name in self._tensors if name.startswith(UPDATE)}
        for parameter, name in self._parameters.items():
            if parameter.requires_grad and f"{UPDATE} {name}" not in updated:  # its optimizer has no hooks
                self._note_gradients([parameter])
                self._note_update(parameter)
        tensors = list(self._tensors.items())
        tensors.insert(self._before_loss, (LOSS, Captured((), "", sketch(loss))))
        return {name: captured._replace(sketch=captured.sketch.cpu()) for name, captured in tensors}

    def stop(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _note(self, name: str, tensor: Tensor, module: str = "") -> str:
        """Add a tensor, and return its name, which is numbered if there was one of that name in this step."""
        latest = self._latest
        if latest is None or latest[0]() is not tensor or latest[1] != tensor._version:
            latest = self._latest = ref(tensor), tensor._version, sketch(tensor)
        first, calls = name, 1
        while name in self._tensors:
            calls += 1
            name = f"{first} #{calls}"
        self._tensors[name] = Captured(tuple(tensor.shape), module, latest[2])
        return name

    def _note_weights(self) -> None:
        """Note parameters and buffers, before anything else. Wrappers may have replaced them since the step before."""
        if self._parameters:
            return
        self._parameters = {tensor: name for name, tensor in _named(self._models, nn.Module.named_parameters)}
        buffers = _named(self._models, nn.Module.named_buffers)
        for parameter, name in self._parameters.items():
            self._weights[name] = self._tensors[self._note(f"{WEIGHT} {name}", parameter)].sketch
        for name, buffer in buffers:
            self._note(f"{BUFFER} {name}", buffer)
        self._before_loss = len(self._tensors)

    def _is_training(self) -> bool:
        """Whether a forward pass is one of the training that can be seen."""
        is_hidden = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        return not is_hidden and torch.is_grad_enabled() and not self._tracker.is_bw

    def _before_forward(self, name: str, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if self._is_training():
            self._note_weights()
            for argument, value in [*enumerate(args), *kwargs.items()]:
                for tensor, which in _tensors_of(value):
                    which += f" ({argument})" if argument else ""
                    self._note(f"{INPUT} {name}{which}", tensor, type(module).__name__)
            self._before_loss = len(self._tensors)

    def _after_forward(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self._is_training():
            of = type(module).__name__
            for tensor, which in _tensors_of(output):
                place = self._note(f"{OUTPUT} {name}{which}", tensor, of).removeprefix(OUTPUT)
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._note_gradient, f"{GRADIENT_AT}{place}", of))
            self._before_loss = len(self._tensors)

    def _note_gradient(self, name: str, module: str, gradient: Tensor) -> None:
        if self._handles:  # the step may be over, and the graph not
            self._note(name, gradient, module)

    def _before_update(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._note_weights()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        step = _StepOfOptimizer([parameter for parameter in parameters if parameter in self._parameters])
        for outer in self._steps_of_optimizers:
            self._forget(outer.gradients)
            outer.is_innermost = False
        self._steps_of_optimizers.append(step)
        _, *others = args
        closure = others[0] if others else kwargs.get("closure")
        if closure is None:
            step.gradients = self._note_gradients(step.parameters)
            return None

        def noting() -> Any:  # the closure makes the forward and the backward pass
            loss = closure()
            self._forget(step.gradients)
            step.gradients = self._note_gradients(step.parameters)
            return loss

        return ((args[0], noting, *others[1:]), kwargs) if others else (args, kwargs | {"closure": noting})

    def _after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        step = self._steps_of_optimizers.pop() if self._steps_of_optimizers else None
        for parameter in step.parameters if step and step.is_innermost else ():
            self._note_update(parameter)

    def _note_gradients(self, parameters: list[Tensor]) -> list[str]:
        named = [(self._parameters[parameter], parameter.grad) for parameter in parameters]
        return [self._note(f"{GRADIENT} {name}", gradient) for name, gradient in named if gradient is not None]

    def _forget(self, gradients: list[str]) -> None:
        for name in gradients:
            self._tensors.pop(name, None)

    def _note_update(self, parameter: Tensor) -> None:
        name, self._latest = self._parameters[parameter], None  # a write into `.data` does not show in the version
        noted = self._note(f"{UPDATE} {name}", parameter)
        after = self._tensors[noted].sketch
        self._tensors[noted] = self._tensors[noted]._replace(sketch=after - self._weights[name])
        self._weights[name] = after


class _StepOfOptimizer:
    """The step of an optimizer that is under way.

    Attributes:
        parameters: that it updates, of those that are captured.
        gradients: the names under which their gradients were noted.
        is_innermost: whether it calls the step of no other optimizer.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.gradients: list[str] = []
        self.is_innermost = True


def _named(models: list[nn.Module], inside: Callable[[nn.Module], Iterator[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    """What is inside models, by dotted names. Of several models, a name begins with the class, numbered if need be."""
    classes = [type(model).__name__ for model in models]
    named = []
    for i, (model, name) in enumerate(zip(models, classes)):
        number = classes[:i].count(name)
        prefix = [f"{name}_{number + 1}" if number else name] if len(models) > 1 else []
        named += [(".".join([*prefix, *filter(None, [path])]) or name, thing) for path, thing in inside(model)]
    return named


def _tensors_of(value: Any) -> list[tuple[Tensor, str]]:
    """The tensors of an argument or of a result, each with what tells it from the first: nothing, `[1]`, `[2]`..."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and not leaf.is_nested]
    return [(tensor, f"[{number}]" if number else "") for number, tensor in enumerate(tensors)]
