"""A training on several processes: which of them writes, and what they hold together."""

from typing import Any

from torch import Tensor, distributed


def is_distributed() -> bool:
    return processes() > 1


def processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process() -> int:
    """Which of them this is, from 0; its rank."""
    return distributed.get_rank() if is_distributed() else 0


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return process() == 0


def sum_over_processes(numbers: Tensor) -> Tensor:
    """The sum of what each process holds, in each."""
    if is_distributed():
        numbers = numbers.to("cuda" if distributed.get_backend() == "nccl" else numbers.device, copy=True)
        distributed.all_reduce(numbers)
    return numbers


def mean_over_processes(loss: Tensor) -> Tensor:
    """The mean of what each process holds: of losses, the one whose gradient DistributedDataParallel takes."""
    return sum_over_processes(loss) / processes() if is_distributed() else loss


def whole(tensor: Any) -> Tensor:
    """A tensor, or all of one that `fully_shard` has split over the processes."""
    found: Tensor = tensor.full_tensor() if _is_split(tensor) else tensor
    return found


def local_share(tensor: Any) -> Tensor:
    """A tensor, or what this process holds of one that is split; in the same memory."""
    held: Tensor = tensor.to_local() if _is_split(tensor) else tensor
    return held


def local_share_like(whole: Tensor, tensor: Any) -> Tensor:
    """What this process would hold of `whole` if that were split as `tensor` is."""
    if not _is_split(tensor):
        return whole
    from torch.distributed.tensor import distribute_tensor  # which takes a while to import

    there = whole.to(tensor.device)
    return distribute_tensor(there, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()


def _is_split(tensor: Any) -> bool:
    return hasattr(tensor, "placements")  # a DTensor
