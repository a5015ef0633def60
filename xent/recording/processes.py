"""A training on several processes: which of them writes, and what a whole is that they hold in parts."""

from typing import Any

from torch import Tensor, distributed


def several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_first() -> bool:
    """Whether this process is the one that writes: the only one, or that of rank 0."""
    return not several() or distributed.get_rank() == 0


def mean_of_processes(loss: Tensor) -> Tensor:
    """The mean of a number over all processes: of losses, that whose gradient DistributedDataParallel takes."""
    return sum_of_processes(loss) / distributed.get_world_size() if several() else loss


def sum_of_processes(number: Tensor) -> Tensor:
    """The sum of a number over all processes, in each."""
    if several():
        number = number.to("cuda" if distributed.get_backend() == "nccl" else number.device, copy=True)
        distributed.all_reduce(number)
    return number


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as those of fully_shard are, of which each process holds a share."""
    return hasattr(tensor, "placements")


def share_of(whole: Tensor, parameter: Any) -> Tensor:
    """This process' share of a tensor that all have whole, as that of a sharded parameter."""
    from torch.distributed.tensor import distribute_tensor  # a second to import, and for these alone

    of_device = whole.to(parameter.device)
    return distribute_tensor(of_device, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()


def own_share(tensor: Any) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    held: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return held


def whole(tensor: Any) -> Tensor:
    """A tensor of which each process may hold a share, in each."""
    found: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return found
