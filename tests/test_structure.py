"""The house stays easy to see: small files and functions, and no more to import than is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SOURCES = [PROJECT / "train.py"]
SOURCES += [
    file
    for room in ("xent", "hydra_plugins", "tests", "benchmarks", "docs")
    for file in sorted((PROJECT / room).rglob("*.py"))
]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_a_file_is_one_idea_and_a_function_fits_on_a_screen(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


def test_the_listing_is_the_architecture() -> None:
    entries = [path.name for path in (PROJECT / "xent").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 10
    assert len((PROJECT / "train.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("module", ["xent", "xent.testing"])
def test_what_proves_a_loss_needs_torch_and_numpy_alone(module: str) -> None:
    absent = ("hydra", "omegaconf", "torchvision", "tensorboard", "matplotlib", "rich", "filelock")
    script = f"import sys; sys.modules |= dict.fromkeys({absent}); import {module}"  # None: importing it fails
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True)


def test_what_differs_between_devices_is_in_one_place() -> None:
    """And the set-up of PyTorch beside it, and `make cuda`. Others ask the table."""
    named = re.compile(r"""["'](cuda|mps|xpu|nccl)|is_(cuda|mps|xpu)\b|torch\.(backends\.)?(cuda|mps|xpu)\b""")
    found = [
        file
        for folder in ("xent", "benchmarks")
        for file in (PROJECT / folder).rglob("*.py")
        if named.search(file.read_text().partition('"""\n')[2])
    ]
    places = ("benchmarks/cuda.py", "xent/recording/device.py", "xent/training/device.py")
    assert sorted(str(file.relative_to(PROJECT)) for file in found) == sorted(places)
