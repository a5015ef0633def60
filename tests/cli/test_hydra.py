"""What people do with Hydra's own flags and settings, and what names and paths they give."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.commands import PROJECT, command, small, the_line, train_py
from tests.helpers.runs import judged

ODD = "tests.helpers.odd_losses"
WEIGHT = "{_target_:torch.tensor,data:[1.,1.,1.,1.,1.,1.,1.,1.,1.,2.]}"


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        ("of_one_weight", "weight=0.5"),
        ("of_no_index", "ignore_index=null"),
        ("of_another_mean", "reduction=batchmean"),
        ("of_steps", "label_smoothing=[0.1]"),
    ],
)
def test_a_loss_may_mean_something_else_by_a_name_of_pytorchs(function: str, argument: str, tmp_path: Path) -> None:
    mine = ["loss=custom", f"loss._target_={ODD}.{function}", f"+loss.{argument}"]
    result = train_py(*small(), *mine, f"hydra.run.dir={tmp_path / 'run'}")
    assert (result.returncode, result.stderr) == (0, "")
    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]
    assert "train/loss" in tags
    assert not [tag for tag in tags if tag.startswith("train_parity")], "there is no loss of PyTorch's to hold it to"


@pytest.mark.parametrize("loss", ["torch", "scratch"])
@pytest.mark.parametrize(
    "argument", ["ignore_index=null", "reduction=batchmean", "label_smoothing=[0.1]", "weight=0.5"]
)
def test_an_argument_that_the_loss_does_not_take_is_refused_before_anything_is_written(
    loss: str, argument: str, tmp_path: Path
) -> None:
    result = train_py(*small(), f"loss={loss}", f"+loss.{argument}", f"hydra.run.dir={tmp_path / 'run'}")
    assert argument.partition("=")[0] in the_line(result) or "batchmean" in the_line(result)
    assert not (tmp_path / "run").exists()


def test_the_weights_of_classes_may_be_made_by_a_target(tmp_path: Path) -> None:
    result = train_py(*small(), f"+loss.weight={WEIGHT}", f"hydra.run.dir={tmp_path / 'run'}")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with a loss, a model, and a configuration that begins with them."""
    for name, text in {
        "loss/mine.yaml": "_target_: xent.ArticleCrossEntropyLoss\n",
        "model/theirs.yaml": "_target_: xent.training.models.mlp\nwidth: 4\n",
        "mine.yaml": "defaults: [train, {override loss: mine}, {override model: theirs}]\n",
    }.items():
        file = tmp_path / "elsewhere" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("way", ["--config-dir={}", "--config-dir {}", "hydra.searchpath=[file://{}]"])
@pytest.mark.parametrize("first", [True, False])
def test_losses_and_models_from_elsewhere(way: str, first: bool, elsewhere: Path, tmp_path: Path) -> None:
    """Such a run resumes where its flags are given again, beside resume= or the folder."""

    def given(*overrides: str) -> list[str]:
        flags = way.format(elsewhere).split()
        return [*flags, *overrides] if first else [*overrides, *flags]

    begun = [*small(model="theirs"), "loss=mine", "optimizer.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}"]
    stopped = train_py(*given(*begun))
    assert stopped.returncode == 1, stopped.stderr
    resumed = train_py(*given(f"resume={tmp_path / 'run'}", "on_nonfinite=continue"))
    assert (resumed.returncode, "Traceback" in resumed.stderr) == (0, False), resumed.stderr
    assert "loss=mine model=theirs" in resumed.stdout
    assert (tmp_path / "run" / "trace.npz").exists()
    assert "is finished" in train_py(*given(*begun)).stdout


def test_a_configuration_of_another_name_resumes_where_its_flags_are_given_again(
    elsewhere: Path, tmp_path: Path
) -> None:
    flags = ["--config-name", "mine", f"--config-dir={elsewhere}"]
    stopped = train_py(*flags, "max_steps=8", "optimizer.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}")
    assert stopped.returncode == 1, stopped.stderr
    resumed = train_py(*flags, f"resume={tmp_path / 'run'}", "on_nonfinite=continue")
    assert resumed.returncode == 0, resumed.stderr
    assert "loss=mine model=theirs" in resumed.stdout


def test_a_sweep_over_losses_from_elsewhere(elsewhere: Path, tmp_path: Path) -> None:
    """And the report has the command as it was typed, but for the folder."""
    typed = [f"--config-dir={elsewhere}", "-m", "loss=torch,mine", "nudge=0,1", "precision=float64", *small()]
    result = train_py(*typed, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.returncode == 0, result.stderr
    assert [each["verdict"] for each in judged(tmp_path / "sweep" / "comparison").values()] == ["same within rounding"]
    report = (tmp_path / "sweep" / "comparison" / "report.md").read_text()
    assert f"train.py {' '.join(typed)}\n" in report


COUNTED = """
import runpy, sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
compose, composed = ConfigLoaderImpl.load_sweep_config, []
ConfigLoaderImpl.load_sweep_config = lambda *given, **named: composed.append(given) or compose(*given, **named)
runpy.run_path("train.py", run_name="__main__")
print(len(composed), "composed")
"""


def test_a_job_of_a_sweep_is_composed_once(tmp_path: Path) -> None:
    """And before the first, to try them, every value once."""
    swept = ["-m", *small(max_steps=1, nudge="0,1,2,3", seed="0,1,2"), f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    result = command("-c", COUNTED, *swept)
    assert result.returncode == 0, result.stderr
    assert f"{12 + 1 + 3 + 2} composed" in result.stdout


@pytest.mark.parametrize("chdir", [False, True])
def test_a_relative_path_is_relative_to_where_the_command_was_given(
    chdir: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is there by itself is found from anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "MNIST").symlink_to(PROJECT / "data" / "MNIST")
    whole = train_py(*small(), "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    for root, root_from_other in (("mine", "../mine"), ('"~/mine"', '"~/mine"')):
        stopped = train_py(
            *small(), f"data.root={root}", f"hydra.job.chdir={chdir}", "hydra.run.dir=run", "optimizer.lr=1e30"
        )
        assert stopped.returncode == 1, stopped.stderr
        (again,) = re.findall(r"to go on: python train\.py (.*)$", stopped.stderr, re.MULTILINE)
        assert again == "resume=run"
        (tmp_path / "other").mkdir(exist_ok=True)
        with monkeypatch.context() as moved:
            moved.chdir(tmp_path / "other")
            resumed = train_py("resume=../run", f"data.root={root_from_other}", "on_nonfinite=continue")
        assert resumed.returncode == 0, resumed.stderr
        assert resumed.stdout.splitlines()[-1] == "../run"
        train_py("resume=run")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other", "run", "whole"]
        assert {path.name.partition(".")[0] for path in (tmp_path / "run").iterdir()} <= {
            *("", "checkpoint", "events", "nonfinite", "trace")
        }
        shutil.rmtree(tmp_path / "run")


def test_sweeps_that_begin_in_one_second_have_a_folder_each(tmp_path: Path) -> None:
    sweep = [sys.executable, str(PROJECT / "train.py"), "-m", *small(max_steps=2), "loss=torch,scratch"]
    begun = [subprocess.Popen(sweep, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert ["2 runs" in each.communicate()[0] and each.returncode for each in begun] == [0, 0, 0]
    assert len(list((tmp_path / "outputs").iterdir())) == 3


@pytest.mark.parametrize(
    "name", ["a\\b", "a\\", "\\\\a", 'a"b', "a'b", "a,b", "a=b c", "[a]", "{a:b}", "#a", "~a", "a$b", "ä 損"]
)
def test_a_run_in_a_folder_of_any_name_resumes(name: str, tmp_path: Path) -> None:
    """By the command that is printed; resume= takes it as it is, not in Hydra's grammar."""
    assert train_py(*small(), "optimizer.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}").returncode == 1
    folder = (tmp_path / "run").rename(tmp_path / name)
    stopped = train_py(f"resume={folder}")
    assert stopped.returncode == 1, stopped.stderr
    (again,) = re.findall(r"to go on: python train\.py (.*)$", stopped.stderr, re.MULTILINE)
    resumed = train_py(*shlex.split(again), "on_nonfinite=continue")
    assert resumed.returncode == 0, resumed.stderr
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "trace.npz").exists()


def test_the_runs_of_a_sweep_may_be_in_folders_of_folders(tmp_path: Path) -> None:
    sweep = ["-m", *small(), "loss=torch,scratch", "nudge=0,1", "precision=float64"]
    deep = train_py(*sweep, f"hydra.sweep.dir={tmp_path / 'deep'}", "hydra.sweep.subdir=a/${loss._target_}/${nudge}")
    flat = train_py(*sweep, f"hydra.sweep.dir={tmp_path / 'flat'}")
    assert (deep.returncode, flat.returncode, deep.stderr) == (0, 0, "")
    found, expected = (list(judged(tmp_path / name / "comparison").values()) for name in ("deep", "flat"))
    assert [each["gap"] for each in found] == [each["gap"] for each in expected]


def test_a_home_is_one_beside_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train_py(*small(), f"hydra.run.dir={tmp_path / 'run'}").returncode == 0
    assert "is finished" in train_py("resume=~/run").stdout


def test_flags_beside_a_run_that_resumes(tmp_path: Path) -> None:
    assert train_py(*small(), f"hydra.run.dir={tmp_path / 'run'}").returncode == 0
    assert train_py("loss=scratch", "--info").returncode == 0
    for flags in (["--config-name", "train"], ["--cfg", "job"], ["-cn", "train"]):
        for arguments in ([f"resume={tmp_path / 'run'}", *flags], [*flags, f"resume={tmp_path / 'run'}"]):
            result = train_py(*arguments)
            assert (result.returncode, result.stderr) == (0, "")
    result = command("train.py", f"resume={tmp_path / 'run'}", "--no-such-flag")
    assert result.returncode == 2 and "unrecognized arguments: --no-such-flag" in result.stderr
