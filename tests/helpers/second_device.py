"""A device for tests, `second`, on any machine: its tensors hold CPU tensors, and what a GPU does not do, it does not.

Operations give the bits of the CPU. One that mixes devices is refused, but for the numbers that a tensor without
dimensions holds. What a host would wait for is noted. PyTorch calls this a Python backend.
What needs another way into a backend fails: `torch.tensor(..., device="second")` and an index that is a Python list,
for which a host would wait, and autocast, which computes in the types it is given.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cpu")  # until it is registered
WAITS: list[str] = []
# Whose result, or its shape, the host has to know.
WAITED_FOR = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "repeat_interleave"}
WAITED_FOR |= {"_unique2", "unique_dim", "unique_consecutive"}


class SecondTensor(Tensor):
    """A tensor on the device. `held` is the CPU's with its numbers; views hold views of it."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "SecondTensor":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        tensor: SecondTensor = Tensor._make_wrapper_subclass(cls, held.size(), **layout, device=DEVICE)
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, *args, **kwargs or {})

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: "SecondTensor") -> None:  # as Module.to sets it
        Tensor.data.__set__(self, other)
        self.held = other.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # saved as what `map_location="cpu"` would load


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation with tensors of the device among its arguments, or one that makes them."""
    name = operation._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    copies = name in ("copy_", "_to_copy")
    if not copies and any(tensor.ndim > 0 and not isinstance(tensor, SecondTensor) for tensor in tensors):
        devices = ", ".join(str(tensor.device) for tensor in tensors)
        raise RuntimeError(f"{name}: expected all tensors on the same device, but found {devices}")
    to = kwargs.get("device") or (args[0].device if name == "copy_" else DEVICE)
    source = args[1] if name == "copy_" else args[0] if copies else None
    is_asynchronous = kwargs.get("non_blocking") or any(argument is True for argument in args[2:3])
    if copies and source.device != to and (to.type == "cpu" or not is_asynchronous):
        WAITS.append(f"copy to {to.type}")
    indices = tree_leaves(args[1]) if name in ("index", "index_put_") else []
    if name in WAITED_FOR or any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        WAITS.append(name)

    wrappers = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, SecondTensor)}
    args, kwargs = tree_map_only(SecondTensor, lambda tensor: tensor.held, (args, kwargs))
    on_cpu = {key: torch.device("cpu") if isinstance(value, torch.device) else value for key, value in kwargs.items()}
    result = operation(*args, **on_cpu)
    if to.type == "cpu":
        return result

    def wrapped(held: Tensor) -> Tensor:
        tensor = wrappers[id(held)] if id(held) in wrappers else SecondTensor(held)  # what was written to is returned
        assert tensor.shape == held.shape, f"{name} changes the shape of a tensor"
        return tensor

    return tree_map_only(Tensor, wrapped, result)


def _arange(*numbers: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
    return SecondTensor(torch.arange(*numbers, dtype=dtype))  # PyTorch changes the shape of an empty tensor


class _Module(backend_registration._DummyBackendModule):  # as torch.cuda is one
    there = False  # as far as PyTorch is asked for the machine's accelerator

    def is_available(self) -> bool:
        return self.there

    def device_count(self) -> int:
        return int(self.there)

    def synchronize(self) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_device_name(self, device: Any = None) -> str:
        return "the second device of the tests"

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


MODULE = _Module()
EVERY, OF_ATEN = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")  # they end with these names


def register() -> None:
    """Make the device known to PyTorch, once a process, before its first backward pass: that starts a thread for it."""
    global DEVICE
    backend_registration._setup_privateuseone_for_python_backend("second", MODULE)
    DEVICE = torch.device("second", 0)
    EVERY.fallback(_run, "PrivateUse1")
    EVERY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for overload in ("arange", "arange.start", "arange.start_step"):
        OF_ATEN.impl(overload, _arange, "PrivateUse1")
