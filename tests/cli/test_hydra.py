"""What people do with Hydra's flags and settings, and what names and paths they choose."""

import re
import shlex
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from tests.helpers.commands import PROJECT, composed, small, the_line, train_py
from tests.helpers.runs import judged

DIVERGES = "optimizer.lr=1e30"  # the loss is NaN at step 2, and the run stops


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped and can be resumed. To be copied."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert train_py(*small(), DIVERGES, f"hydra.run.dir={folder}").returncode == 1
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with a loss, a model, and a configuration that begins with them."""
    folder = tmp_path / "elsewhere"
    (folder / "loss").mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "loss" / "mine.yaml").write_text("_target_: xent.FusedCrossEntropyLoss\nlabel_smoothing: 0.0\n")
    (folder / "model" / "theirs.yaml").write_text("_target_: xent.training.models.mlp\nwidth: 4\n")
    (folder / "mine.yaml").write_text("defaults: [train, {override loss: mine}, {override model: theirs}]\n")
    return folder


@pytest.mark.parametrize(
    "flags",
    ["--config-dir={}", "--config-dir {}", "hydra.searchpath=[file://{}]", "--config-name mine --config-dir={}"],
)
def test_a_run_with_losses_and_models_from_elsewhere_resumes_where_its_flags_are_given_again(
    flags: str, elsewhere: Path, tmp_path: Path
) -> None:
    words, run = flags.format(elsewhere).split(), tmp_path / "run"
    choices = [] if "--config-name" in words else ["loss=mine", "model=theirs"]
    begin = [*choices, "max_steps=8", DIVERGES, f"hydra.run.dir={run}", *words]
    assert train_py(*begin).returncode == 1
    shutil.copytree(run, tmp_path / "copy")
    resume = ["on_nonfinite=continue", f"resume={run}"]
    after, before = train_py(*resume, *words), train_py(*words, "on_nonfinite=continue", f"resume={tmp_path / 'copy'}")
    for resumed in (after, before):
        assert (resumed.returncode, "Traceback" in resumed.stderr) == (0, False), resumed.stderr
        assert "loss=mine model=theirs" in resumed.stdout
    assert (run / "trace.npz").exists()
    assert "is finished" in train_py(*begin).stdout


def test_a_loss_from_elsewhere_is_swept_beside_a_custom_one(elsewhere: Path, tmp_path: Path) -> None:
    """Both keep their targets, and the report has the command as it was typed, but for the folder."""
    losses = ["loss=torch,mine,custom", "loss._target_=xent.losses.impostors.sum_for_mean"]
    typed = ["--config-dir", str(elsewhere), "-m", *losses, *small(nudge="0,1", precision="float64")]
    result = train_py(*typed, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.returncode == 0, result.stderr
    verdicts = {name: figures["verdict"] for name, figures in judged(tmp_path / "sweep" / "comparison").items()}
    assert verdicts == {"mine": "same within rounding", "sum_for_mean": "different"}
    assert "sum_for_mean differs from step 1 on" in result.stdout
    assert f"train.py {' '.join(typed)}\n" in (tmp_path / "sweep" / "comparison" / "report.md").read_text()


def test_a_loss_from_elsewhere_needs_a_target(elsewhere: Path) -> None:
    (elsewhere / "loss" / "mine.yaml").write_text("")
    line = the_line(train_py("--config-dir", str(elsewhere), "loss=mine", *small()))
    assert line.startswith(f"{elsewhere}/loss/mine.yaml has no _target_: expected the name of a class or function")


def test_a_job_of_a_sweep_is_composed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before the first, to try them, every value once."""
    compose = Mock(side_effect=ConfigLoaderImpl.load_sweep_config)
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", lambda *arguments: compose(*arguments))
    result = train_py("-m", *small(max_steps=1, nudge="0,1,2", seed="0,1"), f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert compose.call_count == 6 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("chdir", "root", "root_from_other", "resume"),
    [(True, "mine", "../mine", "../run"), (False, '"~/mine"', '"~/mine"', "~/run")],
)
def test_a_path_is_relative_to_where_the_command_was_typed_or_to_the_home(
    chdir: bool, root: str, root_from_other: str, resume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("mine", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mine" / "MNIST").symlink_to(PROJECT / "data" / "MNIST")
    monkeypatch.chdir(tmp_path)
    stopped = train_py(*small(), f"data.root={root}", f"hydra.job.chdir={chdir}", "hydra.run.dir=run", DIVERGES)
    assert stopped.stderr.endswith("to go on: python train.py resume=run\n")
    monkeypatch.chdir(tmp_path / "other")
    resumed = train_py(f"resume={resume}", f"data.root={root_from_other}", "on_nonfinite=continue")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == "../run"
    assert "../run is finished" in train_py(f"resume={resume}").stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other", "run"]
    names = {path.name.partition(".")[0] for path in (tmp_path / "run").iterdir()}
    assert names <= {"", "checkpoint", "events", "nonfinite", "trace"}


def test_the_folder_of_a_sweep_has_microseconds_so_that_two_of_one_second_have_two() -> None:
    _, hydra = composed()
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d{6}", hydra.sweep.dir)


@pytest.mark.parametrize("name", ["\\\\a\\b\\", "~a\"b'c,d=e f", "#a[b]", "[{a:b}", "$c ä 損"])
def test_a_run_in_a_folder_of_any_name_resumes(name: str, stopped: Path, tmp_path: Path) -> None:
    """By the command that is printed; resume= takes it as it is, not in Hydra's grammar."""
    folder = shutil.copytree(stopped, tmp_path / name)
    (advice,) = re.findall(r"to go on: python train\.py (.*)$", train_py(f"resume={folder}").stderr, re.MULTILINE)
    resumed = train_py(*shlex.split(advice), "on_nonfinite=continue")
    assert resumed.returncode == 0, resumed.stderr
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "trace.npz").exists()


def test_flags_beside_a_run_that_resumes(stopped: Path, tmp_path: Path) -> None:
    resume = f"resume={shutil.copytree(stopped, tmp_path / 'run')}"
    assert train_py(resume, "on_nonfinite=continue").returncode == 0
    for flags in (["--config-name", "train"], ["--cfg", "job"], ["-cn", "train"]):
        for arguments in ([resume, *flags], [*flags, resume]):
            result = train_py(*arguments)
            assert (result.returncode, result.stderr) == (0, "")
    assert train_py("loss=scratch", "--info").returncode == 0
    result = train_py(resume, "--no-such-flag")
    assert result.returncode == 2 and "unrecognized arguments: --no-such-flag" in result.stderr
