import os
import re

import pytest
import torch

from xent.recording.errors import BadInput
from xent.training.device import choose_device, make_deterministic


def test_auto_takes_a_device_that_is_there_and_changes_nothing_of_pytorch() -> None:
    torch.zeros(1, device=choose_device("auto"))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_absent_gpu_is_said_with_the_version_of_pytorch() -> None:
    with pytest.raises(BadInput, match=re.escape(f"device=cuda: PyTorch {torch.__version__} sees no cuda devices")):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta"])
def test_an_unknown_device_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(BadInput, match="expected auto, cpu, cuda"):
        choose_device(name)


@pytest.mark.accelerator
def test_a_number_that_no_device_has_is_refused(accelerator: str) -> None:
    count = torch.get_device_module(accelerator).device_count()
    says = f"device={accelerator}:{count}: PyTorch .* sees {count} {accelerator} device.* train with device=cpu"
    with pytest.raises(BadInput, match=says):
        choose_device(f"{accelerator}:{count}")


@pytest.mark.accelerator
def test_every_process_takes_a_device_of_its_own(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.get_device_module(accelerator), "device_count", lambda: 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
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


def test_arithmetic_repeats_and_is_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    make_deterministic(torch.device("cpu"))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
