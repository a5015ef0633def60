"""A training on two processes is recorded as that of one; real processes, with gloo."""

import os
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import distributed, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.recording.fingerprint import may_be_equal
from xent.recording.trace import load
from xent.verdict.floor import output_gaps

RUN = {"steps": 9, "settings": {"seed": 0}, "nudge": 1}
FIXED = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
# PyTorch 2.6 trains no shards on a CPU.
WRAPPED = ["replicated", *(["sharded"] if Version(torch.__version__) >= Version("2.7") else [])]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3)).double()


def train(network: nn.Module, recorder: Recorder, rank: int = 0, processes: int = 1) -> None:
    """A loop on this process' share of each batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(recorder.steps):
        batch = (torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (4, 3))
        x, y = recorder.reorder(*(part.chunk(processes)[rank] for part in batch))
        loss = mse_loss(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, probe=lambda: network(FIXED))
    recorder.finish()


def process(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # slow to import

    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    replicated, sharded = model(), model()
    fully_shard(sharded)
    of_replicated, of_sharded = (Recorder(folder / name, **RUN) for name in ("replicated", "sharded"))
    of_replicated.nudge(replicated)
    of_sharded.nudge(sharded)
    for split, whole in zip(sharded.parameters(), replicated.parameters(), strict=True):
        assert torch.equal(split.full_tensor(), whole)  # type: ignore[attr-defined]
    train(DistributedDataParallel(replicated), of_replicated, rank, 2)
    if "sharded" in WRAPPED:
        train(sharded, of_sharded, rank, 2)
    for original in (False, True):
        flat = FullyShardedDataParallel(model(), device_id=torch.device("cpu"), use_orig_params=original)
        with pytest.raises(BadInput, match="hides the weights: nudge the model, then wrap it"):
            Recorder(**RUN).nudge(flat)

    # A wrapped model keeps the threads of gloo alive, and one that holds a tensor still while
    # the interpreter ends aborts the process. So the interpreter is not ended.
    os._exit(0)


@pytest.mark.slow
def test_two_processes_leave_the_trace_of_one_and_flat_shares_are_refused(tmp_path: Path) -> None:
    recorder, network = Recorder(tmp_path / "alone", **RUN), model()
    recorder.nudge(network)
    train(network, recorder)
    torch.multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    one = load(tmp_path / "alone")
    for wrapped in WRAPPED:
        two = load(tmp_path / wrapped)
        assert max(output_gaps(two, one).values()) < 1e-14, "nudged alike, and fed alike"
        torch.testing.assert_close(two.losses, one.losses, rtol=1e-13, atol=0)
        assert all(may_be_equal(two.fingerprints[name], sums) for name, sums in one.fingerprints.items())
        assert two.settings == one.settings
