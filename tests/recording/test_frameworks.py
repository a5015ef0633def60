"""Callbacks for the loops of others, whose records are judged: a correct change, a mistake, accumulation, processes."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import xent
from tests.helpers.commands import command, compare_py
from tests.helpers.frameworks import FRAMEWORKS
from xent.recording.trace import load
from xent.testing import assert_same_training

pytestmark = pytest.mark.extra


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_loop_of_a_framework_is_judged_and_left_as_it_was(name: str, tmp_path: Path) -> None:
    losses = xent.FusedCrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=1e-6), nn.CrossEntropyLoss()
    right, wrong, reference = (partial(FRAMEWORKS[name], loss=loss, root=tmp_path) for loss in losses)
    assert_same_training(right, reference, steps=32, nudges=2)
    with pytest.raises(AssertionError, match="training is different(.*\n)*.*where +step 1, "):
        assert_same_training(wrong, reference, steps=32, nudges=2)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_each_step_is_recorded_with_the_mean_of_the_losses_of_its_microbatches(name: str, tmp_path: Path) -> None:
    seen: list[float] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        value = cross_entropy(logits, target)
        seen.append(value.item())
        return value

    parts = 1 if name == "skorch" else 2
    FRAMEWORKS[name](None, loss, tmp_path, parts, folder=tmp_path / "run", settings={"seed": 0})
    trace = load(tmp_path / "run")
    assert trace.step * parts == len(seen) and max(trace.probes) == trace.step
    expected = torch.tensor(seen, dtype=torch.float64).view(-1, parts).mean(1)
    torch.testing.assert_close(trace.losses, expected, rtol=1e-6, atol=0)
    assert "batch 1" in trace.fingerprints and "first weights" in trace.fingerprints


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if name != "skorch"])  # which has one process
def test_several_processes_of_a_framework_are_one_run(name: str, tmp_path: Path) -> None:
    torchrun = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"
    result = command(*torchrun, "-m", "tests.helpers.frameworks", name, str(tmp_path), OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    references = [tmp_path / f"torch_{nudge}" for nudge in (0, 1, 2)]
    assert compare_py(*references, tmp_path / "fused_0").returncode == 0
    assert compare_py(*references, tmp_path / "smoothed_0").returncode == 1
