import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import accelerators


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=1, help="how often `make torture` kills each run")
    parser.addoption("--screenshots", help="the folder for the pictures that tests/test_browser.py takes")


def pytest_configure(config: pytest.Config) -> None:
    accelerators.register()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in an active environment


@pytest.fixture(autouse=True)
def _defaults_of_pytorch() -> Iterator[None]:
    """Undo what a test changed of PyTorch's global state."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def accelerator() -> Iterator[str]:
    """The device of the test that is not the CPU: the machine's GPU, or one of our own."""
    with accelerators.an_accelerator() as name:
        yield name
