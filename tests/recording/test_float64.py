"""A program in float64 all the way gives the numbers of the same program written in float64."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from xent.recording import BadInput, Recorder, all_in_float64

IMAGES, TARGET = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
AdamW = torch.optim.AdamW


class RMSNorm(nn.Module):
    """As language models have it: computed in `narrow`, whatever the model computes in."""

    def __init__(self, narrow: torch.dtype) -> None:
        super().__init__()
        self.weight, self.narrow = nn.Parameter(torch.ones(16)), narrow

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(self.narrow)
        return self.weight * (h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def trained(
    narrow: torch.dtype,
    call: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__,
    optimizer: Callable[[Any], torch.optim.Optimizer] = AdamW,
    autocast: bool = False,
) -> list[float]:
    """The losses of ten steps of a model with casts inside."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), RMSNorm(narrow), nn.GELU(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    model.load_state_dict(
        {name: torch.linspace(-1, 1, value.numel()).view(value.shape) for name, value in model.state_dict().items()}
        | {"3.running_var": torch.ones(16)}
    )
    made, losses = optimizer(model.parameters()), []
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = cross_entropy(call(model, IMAGES.to(next(model.parameters()).dtype)), TARGET)
        made.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        made.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def in_float64() -> list[float]:
    torch.set_default_dtype(torch.float64)
    try:
        return trained(torch.float64)
    finally:
        torch.set_default_dtype(torch.float32)


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "autocast": {"autocast": True},
    "checkpointed": {"call": lambda model, x: checkpoint(model, x, use_reentrant=False)},
    "optimizer of lists": {"optimizer": lambda weights: AdamW(weights, foreach=True)},
    "fused optimizer": {"optimizer": lambda weights: AdamW(weights, fused=True)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
def test_a_training_with_casts_is_that_in_float64(way: str, narrow: torch.dtype, in_float64: list[float]) -> None:
    with all_in_float64() as casts:
        losses = trained(narrow, **WAYS[way])
    assert losses == pytest.approx(in_float64, rel=1e-12)
    assert str(narrow).removeprefix("torch.") in casts
    assert trained(narrow, **WAYS[way]) != pytest.approx(in_float64, rel=1e-9), "as written, it rounds"
    assert torch.get_default_dtype() == torch.float32


def test_a_nudge_widens_what_was_made_before() -> None:
    model = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cross_entropy(model(IMAGES), TARGET).backward()
    with all_in_float64():
        recorder = Recorder(steps=1, nudge=1, settings={"precision": "bfloat16"})
        before = [parameter.double() for parameter in model.parameters()]
        recorder.nudge(model)
        moved = [(after - b).abs().max().item() for after, b in zip(model.parameters(), before)]
        cross_entropy(model(IMAGES), TARGET).backward()
        optimizer.step()
        recorder.step(0.0, lambda: model(IMAGES))
        recorder.finish()
    assert 0 < max(moved) < 1e-15, "one ULP of float64, whatever the precision of the settings"
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64, torch.int64}
    assert recorder.trace.settings["precision"] == "float64" and recorder.trace.first_outputs.dtype == torch.float64


@pytest.mark.parametrize("workers", [0, 2])
def test_data_and_files_come_in_as_they_are(workers: int, tmp_path: Path) -> None:
    torch.save(IMAGES, tmp_path / "images.pt")
    with all_in_float64():
        loaded = deepcopy(torch.load(tmp_path / "images.pt"))
        loader = DataLoader(TensorDataset(loaded, TARGET), batch_size=16, num_workers=workers)
        batches = [images * 1 for images, _ in loader]
        shared = torch.from_numpy(array := np.ones(3, dtype=np.float32))
        array[0] = 2.0
        assert (shared * 1).tolist() == [2.0, 1.0, 1.0]
    assert torch.equal(torch.cat(batches), IMAGES.double())


def test_types_that_narrow_nothing_are_no_casts() -> None:
    with all_in_float64() as casts:
        mask = (TARGET == 0).float()
        assert mask.dtype == torch.zeros(3, dtype=torch.bfloat16).dtype == torch.float64
        assert torch.fft.fft(IMAGES.to(torch.complex64)).dtype == torch.complex128
    assert not casts


def with_scaler() -> None:
    weights = nn.Parameter(torch.ones(3))
    optimizer, scaler = torch.optim.SGD([weights], lr=0.1), torch.amp.GradScaler("cpu")
    scaler.scale(weights.sum()).backward()
    scaler.step(optimizer)


REFUSED: dict[str, Callable[[], object]] = {
    r"aten.mul_.Tensor writes into a float32 tensor, .* recorder.nudge\(model\)": lambda: IMAGES.mul_(2),
    r"aten.fill_.Scalar writes into a float32 tensor": lambda: IMAGES.view(-1)[0].fill_(2),
    r"aten.copy_.default writes into a float32 tensor": lambda: IMAGES.copy_(torch.randn(32, 8)),
    r"aten._foreach_add_.Scalar writes into a float32 tensor": lambda: torch._foreach_add_([IMAGES], 1.0),
    r"native_batch_norm.default writes into a float32": lambda: batch_norm(torch.ones(2, 8), IMAGES[0], IMAGES[1]),
    r"aten.quantize.* has no float64 .*: judge .* dtype=None": lambda: torch.quantize_per_tensor(
        torch.ones(2), 0.1, 0, torch.qint8
    ),
    r"aten.view.dtype reads the bits of a number": lambda: torch.ones(2).float().view(torch.int32),
    r"aten._amp_foreach_.* has no float64 .*: switch off the GradScaler": with_scaler,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_round_silently_is_refused_by_name(message: str) -> None:
    before = IMAGES.clone()
    with all_in_float64(), pytest.raises(BadInput, match=message):
        REFUSED[message]()
    assert torch.equal(IMAGES, before)


def test_an_error_of_the_program_stays_as_it_is() -> None:
    with all_in_float64(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_compiled_code_is_plain_inside_and_said_to_be() -> None:
    def never(*_: Any) -> None:
        raise AssertionError("compiled")

    compiled = torch.compile(torch.sin, backend=never, fullgraph=True)
    with all_in_float64(), pytest.warns(UserWarning, match="torch.compile has no effect"):
        assert torch.equal(torch.compile(torch.cos)(torch.zeros(3)), torch.ones(3))
        assert torch.equal(compiled(torch.zeros(3)), torch.zeros(3))


def test_modules_of_before_are_in_float64_until_the_end() -> None:
    model = nn.Sequential(nn.Conv1d(8, 4, 1), nn.BatchNorm1d(4), nn.PReLU()).eval()
    before = deepcopy(model.state_dict())
    with all_in_float64():
        assert model(torch.randn(2, 8, 3)).dtype == torch.float64
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model(torch.randn(2, 8, 3)).dtype == torch.float32


def test_autocast_and_default_types_are_noted_by_every_context_that_they_are_in() -> None:
    with all_in_float64() as outer:
        with all_in_float64() as inner, torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
            nn.Linear(3, 3)(torch.ones(3))
        torch.set_default_dtype(torch.float16)
        assert torch.ones(3).dtype == torch.float64
    assert (inner, outer) == ({"bfloat16"}, {"bfloat16", "float16"})
