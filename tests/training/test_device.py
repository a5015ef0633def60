import re

import pytest
import torch

from xent.recording.errors import BadInput
from xent.training.device import prepare


def test_auto_takes_a_device_that_is_there() -> None:
    torch.zeros(1, device=prepare("auto"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_absent_gpu_is_said_with_the_version_of_pytorch() -> None:
    with pytest.raises(BadInput, match=re.escape(f"device=cuda: PyTorch {torch.__version__} sees no cuda devices")):
        prepare("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta"])
def test_an_unknown_device_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(BadInput, match="expected auto, cpu, cuda"):
        prepare(name)
