"""Which runs are judged, and their names."""

from pathlib import Path

import pytest

from tests.helpers.runs import run
from xent.compare import load_runs
from xent.recording.errors import BadInput
from xent.recording.trace import save


def names(*folders: Path) -> list[str]:
    return [trace.name for trace in load_runs(folders)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sweeps, `a` and `b`, of two runs each."""
    for path in ("a/loss=torch,seed=0", "a/loss=torch,seed=1", "b/loss=torch", "b/loss=scratch"):
        (tmp_path / path).mkdir(parents=True)
        save(run("torch"), tmp_path / path)
    return tmp_path


def test_a_folder_stands_for_the_runs_in_it_but_for_its_comparison(folder: Path) -> None:
    (folder / "b" / "comparison").mkdir()
    assert names(folder / "b") == ["loss=scratch", "loss=torch"]
    assert names(folder / "b" / "loss=torch") == ["loss=torch"]
    (folder / "b" / "comparison" / "verdict.json").touch()
    assert len(names(*(folder / "b").iterdir())) == 2, "runs/* names the comparison of before too"


def test_a_run_is_named_by_what_not_all_runs_share(folder: Path) -> None:
    assert names(folder / "a") == ["seed=0", "seed=1"]
    runs = folder / "a" / "loss=torch,seed=0", folder / "b" / "loss=torch"
    assert names(*runs) == ["a/loss=torch,seed=0", "b/loss=torch"], "runs of several sweeps"


def test_a_run_that_is_not_finished_is_refused(folder: Path) -> None:
    (folder / "b" / "loss=scratch" / "trace.npz").rename(folder / "b" / "loss=scratch" / "checkpoint.pt")
    with pytest.raises(BadInput, match="loss=scratch is not finished: go on with it, python train.py resume="):
        load_runs([folder / "b"])
