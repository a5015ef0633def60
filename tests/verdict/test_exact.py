"""Equal to the last bit, or where not: by losses, outputs, weights and captured tensors, in any type."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.helpers.commands import compare_py
from tests.helpers.runs import run
from xent.recording import Recorder
from xent.recording.sketch import bit_hash
from xent.recording.trace import Trace
from xent.verdict.exact import Difference, first_difference

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hash_is_of_every_bit_and_place_and_of_no_layout(dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 2, (300, 11), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert bit_hash(tensor) == bit_hash(tensor.clone()) == bit_hash(tensor.T.contiguous().T)
    hashes = {int(bit_hash(tensor))}
    for row in range(300):
        other = tensor.clone()
        other[row, row % 11] = 1 - other[row, row % 11].int()
        hashes |= {int(bit_hash(other)), int(bit_hash(tensor.roll(row + 1)))}
    assert len(hashes) == 601


def test_a_hash_tells_signs_of_zero_and_single_bits_of_large_tensors() -> None:
    large = torch.zeros(3_000_000)
    hashes = {int(bit_hash(large))}
    for place in (0, 1, 2**18 - 1, 2**18, 2_999_999):
        other = large.clone()
        other[place] = -0.0
        hashes.add(int(bit_hash(other)))
    assert len(hashes) == 6
    nan = torch.tensor([math.nan, 1.0])
    assert bit_hash(nan) == bit_hash(nan.clone()) and bit_hash(torch.tensor([1 + 2j])) != bit_hash(
        torch.tensor([1 - 2j])
    )


def test_the_first_step_at_which_any_record_differs_is_named() -> None:
    def changed(step: int, what: str) -> Trace:
        trace = run("scratch", steps=8)
        if what == "the loss":
            trace.losses[step - 1] += 2**-50
        elif what == "the outputs":
            trace.probes[step] = trace.probes[step] + 2**-50
        return trace

    plain = run("torch", steps=8)
    assert first_difference(run("scratch", steps=8), plain) is None
    for step, what in ((3, "the loss"), (4, "the outputs")):
        assert first_difference(changed(step, what), plain) == Difference(step, what)
    shorter = run("scratch", steps=6)
    shorter.losses = plain.losses[:6]
    assert first_difference(shorter, plain) == Difference(7, "one ends after 6 steps")
    nan, negative = run("scratch", steps=8), run("scratch", steps=8)
    nan.losses[4] = math.nan
    assert first_difference(nan, nan) is None
    negative.probes[2] = negative.probes[2].float()
    assert first_difference(negative, plain) == Difference(2, "the outputs"), "of another type"


def trained(folder: Path, lr: float = 0.1, at: int = 0, where: int | None = None, stop: int = 0) -> None:
    """A training whose learning rate differs in one step; stopped and resumed after some."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    recorder = Recorder(folder, steps=12, settings={"lr": lr}, where=where)
    recorder.nudge(model)
    for step in range(1, 13):
        if step == stop:
            state = recorder.state_dict()
            recorder = Recorder(folder, steps=12, settings={"lr": lr}, where=where)
            recorder.load_state_dict(state)
        recorder.reorder(x, y)
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.param_groups[0]["lr"] = lr if step == at else 0.1
        optimizer.step()
        recorder.step(loss, lambda: model(x))
    recorder.finish()


def test_the_command_tells_without_a_floor_whether_runs_are_equal_and_where_not(tmp_path: Path) -> None:
    names = "plain", "resumed", "at_3", "captured", "captured_at_3"
    plain, resumed, at_3, captured, captured_at_3 = (tmp_path / name for name in names)
    trained(plain)
    trained(resumed, stop=6)
    trained(at_3, lr=0.1 + 1e-7, at=3)
    trained(captured, where=4)
    trained(captured_at_3, lr=0.1 + 1e-7, at=3, where=4)
    equal = compare_py(plain, resumed, captured, "--exact")
    lines = [f"{name} is equal to plain to the last bit, in 12 steps" for name in ("resumed", "captured")]
    assert (equal.returncode, equal.stdout.splitlines()) == (0, lines)
    other = compare_py(plain, at_3, "--exact")
    assert (other.returncode, other.stdout) == (1, "at_3 differs from plain from step 4 on: the loss\n")
    where = compare_py(captured, captured_at_3, "--exact")
    assert where.stdout == "captured_at_3 differs from captured from step 3 on: update of 0.weight\n"
    alone = compare_py(plain, "--exact")
    assert (alone.returncode, alone.stderr.startswith("--exact: there is plain alone, expected two runs")) == (2, True)
