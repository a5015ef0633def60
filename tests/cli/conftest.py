"""Runs that faults happen to."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.commands import command
from tests.helpers.faults import SMALL


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of two runs, `run` and `other`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("run", 0), ("other", 1)):
        result = command("train.py", *SMALL, f"seed={seed}", f"hydra.run.dir={folder / name}")
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def killed(finished: Path, tmp_path: Path) -> Path:
    """A run that was killed after its last checkpoint, of step 8; the one before it is of step 4."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run" / "trace.npz").unlink()
    return tmp_path / "run"
