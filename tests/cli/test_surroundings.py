"""Folders of other owners and modes, and users without a name: one line, or a run like any."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import PROJECT, small, the_line, train_py

CAPABILITIES_VERSION_3, DAC_OVERRIDE, DAC_READ_SEARCH = 0x20080522, 1 << 1, 1 << 2
NAMELESS = """import pwd
def getpwuid(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""  # as in a container that is given a number for its user


@pytest.fixture
def _as_a_plain_user(tmp_path: Path) -> Iterator[None]:
    """The rights of files hold for this thread, as they do not for the superuser."""
    libc, header, before = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION_3), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    reduced = (ctypes.c_uint32 * 6)(before[0] & ~DAC_OVERRIDE & ~DAC_READ_SEARCH, *before[1:])
    assert libc.capset(header, reduced) == 0
    yield
    libc.capset(header, before)
    change_mode(tmp_path, "u+rwX")  # so that it can be deleted


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the archives of MNIST."""
    shutil.copytree(PROJECT / "data" / "MNIST" / "raw", tmp_path / "data" / "MNIST" / "raw")
    return tmp_path / "data"


def change_mode(folder: Path, mode: str) -> None:
    subprocess.run(["chmod", "--recursive", mode, str(folder)], check=True)


@pytest.mark.usefixtures("_as_a_plain_user")
def test_data_that_may_only_be_read(data: Path, tmp_path: Path) -> None:
    change_mode(data, "a=rX")
    before = sorted(data.rglob("*"))
    result = train_py(*small(), f"data.root={data}", f"hydra.run.dir={tmp_path / 'out' / 'run'}")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(data.rglob("*")) == before


@pytest.mark.usefixtures("_as_a_plain_user")
@pytest.mark.parametrize("mode", ["a=", "a=r", "a=x"])
def test_data_that_may_not_be_read(mode: str, data: Path, tmp_path: Path) -> None:
    change_mode(data / "MNIST", mode)
    line = the_line(train_py(*small(), f"data.root={data}", f"hydra.run.dir={tmp_path / 'out' / 'run'}"))
    archive = data / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    assert line.startswith(f"{archive} cannot be read or downloaded (")
    assert "ermission denied" in line or "rrno 13" in line
    assert not (tmp_path / "out" / "run").exists()


@pytest.mark.usefixtures("_as_a_plain_user")
def test_a_run_that_may_only_be_read_says_what_cannot_be_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_py(*small(max_steps="null", batch_size=20_000), "epochs=1", f"hydra.run.dir={run}").returncode == 0
    change_mode(run, "a=rX")
    line = the_line(train_py(f"resume={run}", "epochs=2"))
    assert line.startswith(f"cannot write {run}/") and "(Permission denied): give another folder" in line
    line = the_line(train_py(*small(), f"hydra.run.dir={run / 'new'}"))
    assert line.startswith(f"cannot write {run / 'new'} (Permission denied): give another folder")


def test_a_user_without_a_name_or_a_home(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAMELESS)
    sweep = ["-m", *small(), "loss=torch,scratch", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    arguments = [sys.executable, str(PROJECT / "train.py"), *sweep]
    result = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    assert (tmp_path / "sweep" / "comparison" / "report.md").exists()
