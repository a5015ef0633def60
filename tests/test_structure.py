"""The rooms of the house: all are packaged and checked, and no more is imported than is needed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text())


def test_every_room_is_packaged_and_its_imports_are_checked() -> None:
    rooms = {f"xent.{file.parent.name}" for file in (PROJECT / "xent").glob("*/__init__.py")}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == {"xent", *rooms}
    contracts = SETTINGS["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert set(layers) == {*rooms, "xent.compare"}


def test_what_proves_a_loss_needs_torch_and_numpy_alone() -> None:
    absent = ("hydra", "omegaconf", "torchvision", "tensorboard", "matplotlib", "rich", "filelock")
    script = f"import sys; sys.modules |= dict.fromkeys({absent}); import xent.testing"  # None: importing it fails
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True)


def test_devices_are_named_in_few_places() -> None:
    """Others ask for what a device has, and so train on any."""
    named = re.compile(r"""["'](cuda|mps|xpu|nccl)|is_(cuda|mps|xpu)\b|torch\.(backends\.)?(cuda|mps|xpu)\b""")
    places = {
        str(file.relative_to(PROJECT))
        for folder in ("xent", "benchmarks")
        for file in (PROJECT / folder).rglob("*.py")
        if named.search(file.read_text().partition('"""\n')[2])
    }
    expected = ("cli/build.py", "recording/device.py", "recording/processes.py", "training/device.py")
    assert places == {"benchmarks/cuda.py", *(f"xent/{place}" for place in expected)}
