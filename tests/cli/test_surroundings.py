"""Folders of other owners and modes, and users without a name: one line, or a run like any."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.helpers.commands import PROJECT, small, the_line

NAMELESS = """import pwd
def getpwuid(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""  # as in a container that is given a number for its user


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    may_be_read(tmp_path, "u+rwX")  # so that it can be deleted


def plain_user(*arguments: str, **environment: str) -> CompletedProcess[str]:
    """`train.py` by a user for whom the rights of files hold, as they do not for the superuser, without a home."""
    command = [sys.executable, str(PROJECT / "train.py"), *arguments]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(command, cwd="/tmp", env=environment, capture_output=True, text=True, timeout=300)


def may_be_read(folder: Path, mode: str) -> Path:
    """The folder, with these rights for everyone, and all in it."""
    subprocess.run(["chmod", "--recursive", mode, str(folder)], check=True)
    return folder


def archives(place: Path) -> Path:
    (place / "data" / "MNIST" / "raw").mkdir(parents=True)
    for file in (PROJECT / "data/MNIST/raw").glob("*.gz"):
        shutil.copy(file, place / "data" / "MNIST" / "raw")
    return place / "data"


def test_data_that_may_only_be_read(place: Path) -> None:
    data = may_be_read(archives(place), "a=rX")
    before = sorted(data.rglob("*"))
    result = plain_user(*small(), f"data.root={data}", f"hydra.run.dir={place / 'out' / 'run'}")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize("mode", ["a=", "a=r", "a=x"])
def test_data_that_may_not_be_read(mode: str, place: Path) -> None:
    data = archives(place)
    may_be_read(data / "MNIST", mode)
    line = the_line(plain_user(*small(), f"data.root={data}", f"hydra.run.dir={place / 'out' / 'run'}"))
    archive = data / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    assert line.startswith(f"{archive} cannot be read or downloaded (")
    assert "ermission denied" in line or "rrno 13" in line
    assert not (place / "out" / "run").exists()


def test_a_run_that_may_only_be_read(place: Path) -> None:
    """It says what cannot be written."""
    run, data = place / "run", f"data.root={may_be_read(archives(place), 'a=rX')}"
    epoch = small(epochs=1, max_steps="null", batch_size=20000)
    assert plain_user(*epoch, data, f"hydra.run.dir={run}").returncode == 0
    may_be_read(run, "a=rX")
    line = the_line(plain_user(f"resume={run}", "epochs=2", data))
    assert line.startswith(f"cannot write {run}/") and "(Permission denied): give another folder" in line
    line = the_line(plain_user(*small(), data, f"hydra.run.dir={run / 'new'}"))
    assert line.startswith(f"cannot write {run / 'new'} (Permission denied): give another folder")


def test_a_user_without_a_name_or_a_home(place: Path) -> None:
    data = f"data.root={may_be_read(archives(place), 'a=rX')}"
    (place / "sitecustomize.py").write_text(NAMELESS)
    sweep = ["-m", *small(), "loss=torch,scratch", "nudge=0,1", "precision=float64"]
    result = plain_user(*sweep, data, f"hydra.sweep.dir={place / 'out' / 'sweep'}", PYTHONPATH=str(place))
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    assert (place / "out" / "sweep" / "comparison" / "report.md").exists()
