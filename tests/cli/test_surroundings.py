"""Folders of other owners and modes, users without a name, and data that is another's: one line, or a run like any."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.helpers.commands import PROJECT, small, the_line, train_py
from xent.recording import trace_file
from xent.training.datasets import PUBLISHED

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
    """Archives alone, as the repository holds them, and then unpacked by their owner."""
    data = may_be_read(archives(place), "a=rX")
    out = place / "out"
    out.mkdir()
    packed = plain_user(*small(), f"data.root={data}", f"hydra.run.dir={out / 'packed'}")
    assert (packed.returncode, packed.stderr) == (0, "")
    assert {file.suffix for file in (data / "MNIST" / "raw").iterdir()} == {".gz"}
    may_be_read(data, "u+w")
    assert train_py(*small(), f"data.root={data}", f"hydra.run.dir={place / 'own'}").returncode == 0
    may_be_read(data, "a=rX")
    unpacked = plain_user(*small(), f"data.root={data}", f"hydra.run.dir={out / 'unpacked'}")
    assert (unpacked.returncode, unpacked.stderr) == (0, "")
    assert trace_file.load(out / "packed").settings["data.content"] == PUBLISHED["MNIST"]


@pytest.mark.parametrize("mode", ["a=", "a=r", "a=x"])
def test_data_that_may_not_be_read(mode: str, place: Path) -> None:
    data = archives(place)
    may_be_read(data / "MNIST", mode)
    line = the_line(plain_user(*small(), f"data.root={data}", f"hydra.run.dir={place / 'out' / 'run'}"))
    assert line.startswith(f"MNIST in {data} cannot be read (") or line.startswith(f"MNIST is not in {data} and could")
    assert "ermission denied" in line or "rrno 13" in line
    assert not (place / "out" / "run").exists()


def test_a_run_that_may_only_be_read(place: Path) -> None:
    """A finished one is finished; another says what cannot be written."""
    run, data = place / "run", f"data.root={may_be_read(archives(place), 'a=rX')}"
    epoch = small(epochs=1, max_steps="null", batch_size=20000)
    assert plain_user(*epoch, data, f"hydra.run.dir={run}").returncode == 0
    may_be_read(run, "a=rX")
    finished = plain_user(f"resume={run}")
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
    assert finished.stdout == f"{run} is finished, after 3 steps\n"
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


def test_images_that_are_not_what_was_published_are_told_and_kept_apart(tmp_path: Path) -> None:
    """Unpacked, with the archives gone, nothing else shows that a third of them are black."""
    good, bad = (shutil.copytree(PROJECT / "data" / "MNIST", tmp_path / name / "MNIST").parent for name in ("a", "b"))
    run = tmp_path / "run"
    assert train_py(*small(), f"data.root={good}", f"hydra.run.dir={run}").returncode == 0  # which unpacks it
    shutil.copytree(good / "MNIST" / "raw", bad / "MNIST" / "raw", dirs_exist_ok=True)
    for archive in (bad / "MNIST" / "raw").glob("*.gz"):
        archive.unlink()
    images = bad / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(images.read_bytes())
    content[16 : 16 + 784 * 10_000] = bytes(784 * 10_000)
    images.write_bytes(content)
    altered = train_py(*small(), f"data.root={bad}", f"hydra.run.dir={tmp_path / 'altered'}")
    assert altered.returncode == 0
    assert altered.stderr == f"MNIST in {bad} holds other images or labels than were published\n"
    line = the_line(train_py(f"resume={run}", f"data.root={bad}", "epochs=3", "max_steps=8"))
    assert line.startswith(f"data.root={bad} holds other images or labels than the run began with (")
    assert line.endswith(", then 383e4bd5b34cb6df): give it those")
    compared = subprocess.run(
        [sys.executable, "-m", "xent.compare", str(run), str(tmp_path / "altered")],
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert compared.returncode == 2
    assert "not matched, they differ in data.content (" in compared.stderr
