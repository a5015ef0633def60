"""A training on several processes: which rank writes, and what the ranks hold together."""

import os
from typing import Any

from torch import Tensor, distributed

from xent.recording.device import accelerator
from xent.recording.errors import BadInput

ONE_DEVICE_BACKENDS = ("nccl", "xccl")  # they send tensors on the accelerator alone


def launched() -> tuple[int, int] | None:
    """The rank of this process and the number of processes, as torchrun set them; None without it.

    Raises:
        BadInput: the environment has a part of what torchrun sets, or what cannot be.
    """
    values = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    values |= {name: os.environ.get(name, "0") for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    if "RANK" not in os.environ:
        return None
    numbers = {name: int(value) for name, value in values.items() if value.isdecimal()}
    are_numbers = len(numbers) == len(values) - 1 and values["MASTER_ADDR"]  # which is the only text
    if not are_numbers or not numbers["RANK"] < numbers["WORLD_SIZE"] or not 0 < numbers["MASTER_PORT"] < 2**16:
        found = " ".join(f"{name}={os.environ[name]}" for name in values if name in os.environ)
        raise BadInput(f"the environment has {found}: start processes by torchrun, or unset RANK for a single one")
    return numbers["RANK"], numbers["WORLD_SIZE"]


def world_size() -> int:
    """The number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The rank of this process, from 0. Rank 0 writes."""
    return distributed.get_rank() if world_size() > 1 else 0


def sum_over_ranks(numbers: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on every rank."""
    if world_size() == 1:
        return numbers
    # all_reduce writes into the tensor, on a device that the backend sends from: so a copy, there.
    device = accelerator() if distributed.get_backend() in ONE_DEVICE_BACKENDS else numbers.device
    total = numbers.to(device, copy=True)
    distributed.all_reduce(total)
    return total.to(numbers.device)


def is_split(tensor: Any) -> bool:
    """Whether a tensor is sharded over the processes, as `fully_shard` shards weights: a DTensor."""
    return hasattr(tensor, "placements")


def whole(tensor: Any) -> Tensor:
    """A tensor, gathered from all processes if it is sharded."""
    return tensor.full_tensor() if is_split(tensor) else tensor


def local_share(tensor: Any) -> Tensor:
    """A tensor, or this process's shard of it if it is sharded; in the same memory."""
    return tensor.to_local() if is_split(tensor) else tensor


def local_share_like(whole: Tensor, tensor: Any) -> Tensor:
    """This process's shard of `whole`, if that were sharded as `tensor` is."""
    if not is_split(tensor):
        return whole
    from torch.distributed.tensor import distribute_tensor  # slow to import

    return distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements).to_local()
