"""What a training runs on: a device, arithmetic that repeats, code that is compiled."""

import os
import re
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch._dynamo.utils import counters
from torch._inductor import config

from tests.helpers.commands import small, the_line, train_py, trained
from tests.helpers.processes import TORCHRUNS
from xent.recording.errors import BadInput
from xent.training.device import choose_device, make_deterministic
from xent.verdict.floor import bitwise_identical


def test_an_unknown_device_is_refused_with_the_choices_and_an_absent_gpu_with_the_version_of_pytorch() -> None:
    refused = dict.fromkeys(("gpu", "cuda:x", "", "meta"), "expected auto, cpu, cuda")
    if not torch.cuda.is_available():
        refused["cuda"] = re.escape(f"device=cuda: PyTorch {torch.__version__} sees no cuda devices")
    for name, says in refused.items():
        with pytest.raises(BadInput, match=says):
            choose_device(name)


@pytest.mark.accelerator
def test_every_process_takes_its_own_device_that_is_there(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = torch.get_device_module(accelerator).device_count()
    says = f"device={accelerator}:{count}: PyTorch .* sees {count} {accelerator} device.* train with device=cpu"
    with pytest.raises(BadInput, match=says):
        choose_device(f"{accelerator}:{count}")
    monkeypatch.setattr(torch.get_device_module(accelerator), "device_count", lambda: 3)
    for name, value in (TORCHRUNS | {"LOCAL_WORLD_SIZE": "3"}).items():
        monkeypatch.setenv(name, value)
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert {choose_device(name) for name in (accelerator, "auto")} == {torch.device(accelerator, rank)}
    with pytest.raises(BadInput, match=f"device={accelerator}:1: .*3 processes"):
        choose_device(f"{accelerator}:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_device("cpu") == torch.device("cpu"), "which many processes share"
    for name in (accelerator, "auto"):
        with pytest.raises(BadInput, match=f"device={name}: .*4 processes"):
            choose_device(name)


def test_arithmetic_repeats_and_is_not_rounded_to_tf32_once_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.zeros(1, device=choose_device("auto"))
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    make_deterministic(torch.device("cpu"))
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert not (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_compiled_run_repeats_bit_for_bit(tmp_path: Path) -> None:
    counters.clear()
    settings = small(model="cnn", **{"model.width": 4})
    runs = [trained(tmp_path / name, *settings, "compile=true") for name in ("a", "b")]
    assert counters["stats"]["unique_graphs"] == 4, "of each run the model and the loss, and no evaluation"
    eager = trained(tmp_path / "eager", *settings)
    assert bitwise_identical(*runs)
    assert torch.equal(runs[0].probes[0], eager.probes[0]), "compiling leaves no trace in the model"
    torch.testing.assert_close(runs[0].losses, eager.losses, rtol=1e-3, atol=1e-3)
    assert not torch.equal(runs[0].losses, eager.losses), "nothing was compiled"


def test_without_a_c_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # where nothing is compiled already
    line = the_line(train_py(*small(), "compile=true", "device=cpu", f"hydra.run.dir={tmp_path / 'run'}"))
    reason = "InvalidCxxCompiler" if Version(torch.__version__) >= Version("2.14") else "backend='inductor' raised"
    assert line.startswith(f"PyTorch cannot compile here ({reason}") and line.endswith("): train with compile=false")
