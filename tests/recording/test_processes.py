"""A training on two processes is recorded as that of one; real processes, with gloo."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.recording.fingerprint import may_be_equal
from xent.recording.trace import load
from xent.verdict.floor import output_gaps

FIXED = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3)).double()


def train(network: nn.Module, recorder: Recorder, rank: int = 0, processes: int = 1) -> None:
    """A loop on this process' share of each batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(recorder.steps):
        batch = (torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (4, 3))
        x, y = recorder.reorder(*(each.chunk(processes)[rank] for each in batch))
        loss = mse_loss(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, probe=lambda: network(FIXED))
    recorder.finish()


def recorder_of(folder: Path) -> Recorder:
    return Recorder(folder, steps=9, settings={"seed": 0}, nudge=1)


def replicated(rank: int, folder: Path) -> None:
    recorder, network = recorder_of(folder), model()
    recorder.nudge(network)
    train(DistributedDataParallel(network), recorder, rank, 2)


def sharded(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    recorder, network = recorder_of(folder), model()
    fully_shard(network)
    recorder.nudge(network)
    alone = model()
    Recorder(steps=9, nudge=1).nudge(alone)
    for split, whole in zip(network.parameters(), alone.parameters(), strict=True):
        assert torch.equal(split.full_tensor(), whole)  # type: ignore[attr-defined]
    train(network, recorder, rank, 2)


def sharded_flat(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    for original in (False, True):
        flat = FullyShardedDataParallel(model(), device_id=torch.device("cpu"), use_orig_params=original)
        with pytest.raises(BadInput, match="hides the weights: nudge the model, then wrap it"):
            Recorder(steps=9, nudge=1).nudge(flat)
    (folder / f"refused by {rank}").touch()


def process(rank: int, of_process: Callable[[int, Path], None], folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    of_process(rank, folder / "run")
    # A wrapped model keeps the threads of gloo alive, and one that holds a tensor still while
    # the interpreter ends aborts the process. So the interpreter is not ended.
    os._exit(0)


def on_two_processes(of_process: Callable[[int, Path], None], folder: Path) -> Path:
    (folder / "run").mkdir()
    torch.multiprocessing.spawn(process, (of_process, folder), nprocs=2)
    return folder / "run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    recorder, network = recorder_of(folder), model()
    recorder.nudge(network)
    train(network, recorder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("of_process", [replicated, sharded])
def test_two_processes_leave_the_trace_of_one(
    of_process: Callable[[int, Path], None], alone: Path, tmp_path: Path
) -> None:
    one, two = load(alone), load(on_two_processes(of_process, tmp_path))
    assert max(output_gaps(two, one).values()) < 1e-14, "nudged may_be_equal, and fed alike"
    torch.testing.assert_close(two.losses, one.losses, rtol=1e-13, atol=0)
    assert all(may_be_equal(two.fingerprints[name], fingerprint) for name, fingerprint in one.fingerprints.items())
    assert two.settings == one.settings


@pytest.mark.slow
def test_weights_that_are_cut_into_flat_shares_cannot_be_nudged(tmp_path: Path) -> None:
    folder = on_two_processes(sharded_flat, tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["refused by 0", "refused by 1"]


def test_the_loss_of_one_process_is_not_touched() -> None:
    loss: Tensor = torch.tensor(0.1, dtype=torch.float64)
    recorder = Recorder(steps=1)
    recorder.step(loss, lambda: loss)
    assert recorder.trace.losses.item() == 0.1
