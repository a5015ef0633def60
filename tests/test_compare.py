"""Which runs are judged, and their names."""

from pathlib import Path

import pytest

from tests.helpers.runs import run
from xent.compare import load_runs
from xent.recording.errors import BadInput
from xent.recording.trace import save


def test_a_sweep_folder_stands_for_its_runs(tmp_path: Path) -> None:
    for loss in ("torch", "scratch"):
        (tmp_path / f"loss={loss}").mkdir()
        save(run(loss), tmp_path / f"loss={loss}")
    (tmp_path / "comparison").mkdir()
    assert [trace.name for trace in load_runs([tmp_path])] == ["loss=scratch", "loss=torch"]
    assert [trace.name for trace in load_runs([tmp_path / "loss=torch"])] == ["loss=torch"]
    (tmp_path / "comparison" / "verdict.json").touch()
    assert len(load_runs(sorted(tmp_path.iterdir()))) == 2, "runs/* names the comparison of before too"


def test_a_run_is_named_without_what_all_runs_share(tmp_path: Path) -> None:
    for name in ("loss=torch,model=mlp,seed=0", "loss=torch,model=mlp,seed=1"):
        (tmp_path / name).mkdir()
        save(run("torch"), tmp_path / name)
    assert [trace.name for trace in load_runs([tmp_path])] == ["seed=0", "seed=1"]


def test_runs_of_several_sweeps_are_named_with_them(tmp_path: Path) -> None:
    for name in ("a/loss=torch", "b/loss=torch"):
        (tmp_path / name).mkdir(parents=True)
        save(run("torch"), tmp_path / name)
    assert [t.name for t in load_runs([tmp_path / "a", tmp_path / "b"])] == ["a/loss=torch", "b/loss=torch"]


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    for name in ("loss=torch", "loss=scratch"):
        (tmp_path / name).mkdir()
    save(run("torch"), tmp_path / "loss=torch")
    (tmp_path / "loss=scratch" / "checkpoint.pt").touch()
    with pytest.raises(BadInput, match="loss=scratch is not finished: go on with it, python train.py resume="):
        load_runs([tmp_path])
