"""A training on several processes: which of them writes, and what they hold together."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, distributed

from xent.losses.transforms import is_split
from xent.recording.device import ONE_DEVICE_BACKENDS, accelerator


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
        numbers = _where_it_is_sent(numbers)
        distributed.all_reduce(numbers)
    return numbers


def mean_over_processes(loss: Tensor) -> Callable[[], Tensor]:
    """The mean of what each process holds: of losses, the one whose gradient DistributedDataParallel takes.

    It is on its way when this returns; call the function that this gives to wait for it.
    """
    total = _where_it_is_sent(loss)
    work = distributed.all_reduce(total, async_op=True)

    def arrived() -> Tensor:
        work.wait()
        return total / processes()

    return arrived


def _where_it_is_sent(numbers: Tensor) -> Tensor:
    """A copy on a device that the processes' backend sends from."""
    there = accelerator() if distributed.get_backend() in ONE_DEVICE_BACKENDS else numbers.device
    return numbers.to(there, copy=True)


def whole(tensor: Any) -> Tensor:
    """A tensor, or all of one that `fully_shard` has split over the processes."""
    found: Tensor = tensor.full_tensor() if is_split(tensor) else tensor
    return found


def local_share(tensor: Any) -> Tensor:
    """A tensor, or what this process holds of one that is split; in the same memory."""
    held: Tensor = tensor.to_local() if is_split(tensor) else tensor
    return held


def local_share_like(whole: Tensor, tensor: Any) -> Tensor:
    """What this process would hold of `whole` if that were split as `tensor` is."""
    if not is_split(tensor):
        return whole
    from torch.distributed.tensor import distribute_tensor  # which takes a while to import

    there = whole.to(tensor.device)
    return distribute_tensor(there, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
