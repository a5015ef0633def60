"""A program in float64 all the way: no cast to a narrower type happens, so that rounding cannot hide a mistake."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from xent.recording.errors import BadInput, in_one_line

DTYPES = [dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)]
NARROW = {dtype: torch.float64 for dtype in DTYPES if dtype.is_floating_point and dtype is not torch.float64}
NARROW |= {dtype: torch.complex128 for dtype in DTYPES if dtype.is_complex and dtype is not torch.complex128}

COPIES = ("copy_", "cat", "stack", "zero_")  # they round nothing if all that they read fits in what they write
RUNNING = ("running_mean", "running_var")  # which native_batch_norm writes, though its schema does not say so
SWITCH_OFF = {"_fused_": "fused=True of the optimizer", "_amp_": "the GradScaler"}

_running: ContextVar["_AllInFloat64 | None"] = ContextVar("all_in_float64", default=None)


@contextmanager
def all_in_float64() -> Iterator[set[str]]:
    """Compute everything in float64: a cast to a narrower floating type has no effect, in forward and backward passes.

    Two programs that are the same function then differ by 1e-16, whatever types they were written in, and a mistake
    stands out. This proves that the functions are the same. To compare their rounding, run both as they were written.

    >>> with all_in_float64() as casts:
    ...     train(recorder)
    >>> casts
    {"bfloat16"}

    Inside, new tensors are float64, and every operation takes its arguments in float64 (complex128 for complex
    numbers). Of what was made before, a module is float64 from its first call to the end of the context, and a tensor
    is widened where it is read. One that is written to, or trained, must be widened first, as `Recorder.nudge` does
    with the weights, gradients and buffers of a model. Random draws are other numbers than in float32, the same in
    each run. An operation costs a few microseconds more.

    What it cannot do: numbers that were rounded before they came in stay so, as those of NumPy's float32 arrays. It
    sees no further than PyTorch's operations, so not into a kernel of Triton or NumPy. Nothing is compiled inside it:
    compare compiled code with plain code outside of it. Code that asks for a tensor's dtype is told float64; `float()`
    then makes a copy, and `double()` none.

    Yields:
        the types narrower than float64 to which floating point numbers would have been cast so far, by autocast too.

    Raises:
        BadInput: an operation writes into a narrower tensor, reads its bits, or has no float64; the message names it.
    """
    with torch.compiler.set_stance("force_eager"), widening() as casts:
        yield casts


def judging_in(dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """`all_in_float64` to judge a program in float64, as a function; in another type it runs as it is written."""
    return all_in_float64() if dtype == torch.float64 else nullcontext()


@contextmanager
def widening() -> Iterator[set[str]]:
    """`all_in_float64` for every step: PyTorch 2.6 loses references to None when its stance is set, in the end all."""
    default, mode, outer = torch.get_default_dtype(), _AllInFloat64(), _running.get()
    token = _running.set(mode)
    torch.set_default_dtype(torch.float64)
    with ExitStack() as stack:
        stack.callback(lambda: outer.casts.update(mode.casts) if outer else None)
        stack.callback(_running.reset, token)
        stack.callback(torch.set_default_dtype, default)
        stack.callback(mode.narrow_again)
        stack.callback(register_module_forward_pre_hook(lambda module, _: mode.widen_until_the_end(module)).remove)
        stack.enter_context(patch.object(torch, "compile", _not_compiled(torch.compile)))
        stack.enter_context(patch.object(torch, "set_default_dtype", mode.note))
        stack.enter_context(patch.object(torch.autocast, "__enter__", mode.noting_autocast(torch.autocast.__enter__)))
        stack.enter_context(mode)
        yield mode.casts


def _not_compiled(compile: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(compile)
    def said(*args: Any, **kwargs: Any) -> Any:
        advice = "compare compiled with plain code outside of it, with dtype=None"
        warnings.warn(f"torch.compile has no effect inside all_in_float64(): {advice}", stacklevel=2)
        return compile(*args, **kwargs)

    return said


def casts_seen_through() -> set[str] | None:
    """The casts that `all_in_float64` has seen through so far; None outside of it."""
    mode = _running.get()
    return None if mode is None else mode.casts


def widen(model: nn.Module) -> None:
    """Make weights, gradients and buffers float64, in place: an optimizer or another module may hold them already."""
    for tensor in [*model.parameters(), *model.buffers()]:
        _widen(tensor)
        if tensor.is_leaf and tensor.grad is not None:
            _widen(tensor.grad)


def _widen(tensor: Tensor) -> None:
    """Make a tensor float64, in place, if its type is narrower."""
    if tensor.dtype in NARROW:
        tensor.data = tensor.data.to(NARROW[tensor.dtype])


class _AllInFloat64(TorchDispatchMode):
    """Widens what every operation is called with, and collects in `casts` the types that were asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.casts: set[str] = set()
        self._widened: list[tuple[Tensor, torch.dtype]] = []

    def note(self, dtype: torch.dtype) -> None:
        """Add a type to those that were asked for."""
        if dtype in NARROW:
            self.casts.add(str(dtype).removeprefix("torch."))

    def noting_autocast(self, enter: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`torch.autocast.__enter__`, which notes the type: autocast itself leaves float64 alone."""

        def noted(autocast: Any) -> Any:
            if autocast._enabled:
                self.note(autocast.fast_dtype)
            return enter(autocast)

        return noted

    def widen_until_the_end(self, module: nn.Module) -> None:
        """Widen a module's own weights and buffers: PyTorch compares some types before the mode sees the operation."""
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.dtype in NARROW:
                self._widened.append((tensor, tensor.dtype))
                _widen(tensor)

    def narrow_again(self) -> None:
        """Give what was widened its type of before."""
        for tensor, dtype in self._widened:
            tensor.data = tensor.data.to(dtype)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.view.dtype and (args[0].is_floating_point() or args[1].is_floating_point):
            raise BadInput(f"{func} reads the bits of a number, which in all_in_float64() are those of float64")
        if _holds_narrow(args) or _holds_narrow(kwargs.values()):
            operation = _operation(func)
            if (operation.shares_memory and not _is_fresh(operation, args)) or _is_empty(operation, args):
                return func(*args, **kwargs)  # what shares memory must go on sharing it
            written = [args[i] if i < len(args) else kwargs.get(name) for i, name in operation.written]
            if not _holds_narrow(written):
                args, kwargs = self._wide(operation, args, kwargs)
            elif not _only_copies(operation, written, (args, kwargs)):
                narrow = str(next(t.dtype for t in _floats(written) if t.dtype in NARROW)).removeprefix("torch.")
                what = f"{func} writes into a {narrow} tensor, made before all_in_float64() or shared with NumPy"
                advice = "widen it first, a model with recorder.nudge(model), a tensor with .double()"
                raise BadInput(f"{what}: {advice}; make optimizers and averages of weights after that")
        try:
            return func(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as error:
            if not re.search("not implemented for 'double'|float tensor|scalar type float", str(error), re.IGNORECASE):
                raise
            off = [what for prefix, what in SWITCH_OFF.items() if _operation(func).name.startswith(prefix)]
            advice = f"switch off {off[0]}" if off else "judge the program in its own precision, with dtype=None"
            raise BadInput(f"{func} has no float64 ({in_one_line(error)}): {advice}") from error

    def _wide(self, operation: "_Operation", *arguments: Any) -> Any:
        def wide(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dtype in NARROW:
                return torch.ops.aten._to_copy.default(value, dtype=NARROW[value.dtype])
            if not isinstance(value, torch.dtype) or value not in NARROW:
                return value
            if not operation.is_factory and any(_is_wider(tensor.dtype, value) for tensor in _floats(arguments)):
                self.note(value)
            return NARROW[value]

        return tree_map(wide, arguments)


class _Operation(NamedTuple):
    """What an operation of PyTorch does with its arguments.

    Attributes:
        written: position and name of each argument that it writes into.
        shares_memory: whether its result shares the memory of an argument, as a view does.
        is_factory: whether it takes nothing but shape and type from its arguments.
    """

    name: str
    written: list[tuple[int, str]]
    shares_memory: bool
    is_factory: bool


@cache
def _operation(func: Any) -> _Operation:
    name, schema = func._schema.name.split("::")[1], func._schema
    writes = [bool(a.alias_info and a.alias_info.is_write) or a.name in RUNNING for a in schema.arguments]
    written = [(i, argument.name) for i, argument in enumerate(schema.arguments) if writes[i]]
    is_view = any(result.alias_info and not result.alias_info.is_write for result in schema.returns)
    attaches = name in ("set_", "resize_", "resize_as_")
    return _Operation(name, written, is_view or attaches, name.startswith("new_") or name.endswith("_like"))


def _is_fresh(operation: _Operation, args: Any) -> bool:
    """Whether torch.tensor() just made this tensor. One of torch.from_numpy() shares its memory with NumPy."""
    return operation.name == "lift_fresh" and args[0].numel() > 0 and args[0].untyped_storage().resizable()


def _is_empty(operation: _Operation, args: Any) -> bool:
    """Whether a tensor is made without a value, for torch.load() or deepcopy() to attach storage to it."""
    return operation.name in ("empty", "new_empty") and (not args[-1] or 0 in args[-1])


def _holds_narrow(values: Iterable[Any]) -> bool:
    """Whether a narrower type, or a tensor of one, is among the arguments of an operation."""
    for value in values:
        if isinstance(value, Tensor):
            if value.dtype in NARROW:
                return True
        elif isinstance(value, torch.dtype):
            if value in NARROW:
                return True
        elif isinstance(value, list | tuple) and _holds_narrow(value):
            return True
    return False


def _only_copies(operation: _Operation, written: Iterable[Any], arguments: Any) -> bool:
    """Whether an operation writes what it reads, with no rounding."""
    return operation.name in COPIES and not any(
        _is_wider(value.dtype, target.dtype) for target in _floats(written) for value in _floats(arguments)
    )


def _floats(values: Any) -> list[Tensor]:
    """The tensors of floating point or complex numbers among the arguments or results of an operation."""
    kinds = (value for value in tree_leaves(values) if isinstance(value, Tensor))
    return [tensor for tensor in kinds if tensor.is_floating_point() or tensor.is_complex()]


def _is_wider(dtype: torch.dtype, other: torch.dtype) -> bool:
    return dtype.to_real().itemsize > other.to_real().itemsize


class LookingOn(TorchDispatchMode):
    """Looks at the operations of a program as written.

    Attributes:
        narrower: the types in which an operation, autocast's casts included, gave a result narrower than a floating
            point number that it took.
    """

    def __init__(self, *followed: Tensor) -> None:
        """Begin to look. `follows` then tells what was computed from the tensors `followed`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.narrower: set[torch.dtype] = set()
        self._followed = list(followed)  # kept, so that no other tensor gets their memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = _floats((args, kwargs))
        result = func(*args, **(kwargs or {}))
        if not _operation(func).is_factory:
            made = _floats(result)
            self.narrower |= {one.dtype for one in made if any(_is_wider(tensor.dtype, one.dtype) for tensor in taken)}
            self._followed += made if any(map(self.follows, taken)) else []
        return result

    def follows(self, tensor: Tensor) -> bool:
        """Whether PyTorch computed a tensor from those that are followed. A kernel of Triton or NumPy is not seen."""
        return any(one.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for one in self._followed)
