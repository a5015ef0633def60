"""The files of configs/, what people do with Hydra's flags, and what names and paths they choose."""

import re
import shlex
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from tests.helpers.commands import PROJECT, composed, run_of, small, succeeds, train_py
from tests.helpers.runs import judged
from xent.cli.compose import IMPOSTORS, run_name
from xent.cli.schema import GROUPS, validated
from xent.recording.trace import load

DIVERGES, GOES_ON = "optimizer.lr=1e30", "on_nonfinite=continue"  # the loss is NaN at step 2, and the run stops
FLAGS = ["--config-dir={}", "--config-dir {}", "hydra.searchpath=[file://{}]", "--config-name mine --config-dir={}"]
PATHS = [(True, "mine", "../mine", "../run"), (False, '"~/mine"', '"~/mine"', "~/run")]
EXPERIMENTS = [file.stem for file in sorted((PROJECT / "configs" / "experiment").glob("*.yaml"))]
CHOICES = [(group, file.stem) for group in GROUPS for file in sorted((PROJECT / "configs" / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_file_composes_and_instantiates(group: str, choice: str) -> None:
    custom = ["loss._target_=torch.nn.CrossEntropyLoss"] if choice == "custom" else []
    cfg, hydra = composed(f"{group}={choice}", *custom)
    checked = validated(cfg)
    assert hydra.runtime.choices[group] == choice
    model, loss = instantiate(checked.model, (1, 28, 28), 10), instantiate(checked.loss)
    assert isinstance(model, nn.Module) and isinstance(loss, nn.Module)
    assert isinstance(instantiate(checked.optimizer, model.parameters()), torch.optim.Optimizer)
    assert len(checked.data.mean) == len(checked.data.std) in (1, 3)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    cfg, hydra = composed(f"+experiment={experiment}")
    others = {"cifar10": "resnet", "layout": "cnn", "arithmetic": "cnn", "fast": "cnn"}
    assert hydra.runtime.choices["model"] == others.get(experiment, "mlp")
    validated(cfg)


def test_the_experiment_with_impostors_trains_every_one() -> None:
    _, hydra = composed("+experiment=impostors")
    swept = sorted(loss.strip() for loss in hydra.sweeper.params.loss.split(","))
    assert swept == sorted({"torch", *IMPOSTORS} - {"impostor/mean_of_means"}), "which parts of batches bring out"


def test_settings_are_flat_and_frozen_and_those_that_a_run_depends_on(tmp_path: Path) -> None:
    """A group stands for its choice."""
    run = run_of(tmp_path, "loss=scratch", "precision=float64")
    chosen = {"loss": "scratch", "loss._target_": "xent.CrossEntropyLossFromScratch"}
    chosen |= {"precision": "float64", "loss_precision": "float64", "machine.threads": torch.get_num_threads()}
    others = {"optimizer.momentum": 0.9, "max_steps": None, "data.mean": [0.1307], "processes": 1}
    assert run.settings == run.settings | chosen | others
    ignored = ["log_every=3", "test_every=3", "checkpoint_every=3", "timeout=3", GOES_ON, "data.root=elsewhere"]
    assert run_of(tmp_path, *ignored).settings == run_of(tmp_path).settings
    with pytest.raises(FrozenInstanceError):
        run.folder = tmp_path / "other"  # type: ignore[misc]


def test_threads_are_pytorchs_but_no_more_than_the_cores_and_one_in_a_small_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xent.cli.compose.PYTORCHS_THREADS", 8)
    for cores, expected in ((2, 2), (16, 8)):
        monkeypatch.setattr("xent.cli.compose.cpu_count", lambda cores=cores: cores)
        run = run_of(tmp_path, "model=cnn")
        assert (run.threads, run.settings["machine.threads"]) == (expected, expected)
        assert "threads" not in run.settings, "what is matched is what computes"
    assert run_of(tmp_path, "model=mlp").threads == 1
    assert run_of(tmp_path, "model=mlp", "threads=3").settings["machine.threads"] == 3


@pytest.mark.parametrize(("cores", "at_a_time"), [(2, 2), (64, 8)])
def test_the_proof_trains_as_many_runs_at_a_time_as_there_are_cores(
    cores: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xent.cli.compose.cpu_count", lambda: cores)
    _, hydra = composed("+experiment=proof")
    assert (hydra.runtime.choices["hydra/launcher"], hydra.launcher.n_jobs) == ("cores", at_a_time)


@pytest.mark.parametrize("name", ["RAdam", "RMSprop", "Adadelta", "Adafactor", "NAdam"])
def test_an_optimizer_is_a_file_of_two_lines(name: str, tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text(f"_target_: torch.optim.{name}\nlr: 1e-3\n")
    succeeds("--config-dir", str(tmp_path), "optimizer=mine", *small(max_steps=2), f"hydra.run.dir={tmp_path / 'run'}")
    assert load(tmp_path / "run").settings["optimizer"] == "mine"


def test_a_run_is_named_by_what_its_command_line_changed_and_a_sweep_by_the_microsecond() -> None:
    assert run_name(["loss=scratch", "+seed=1"]) == "loss=scratch,seed=1"
    assert run_name([]) == "defaults"
    assert run_name(["loss.file=/a/b", "data.root=/c", "+log_every=2"]) == "loss.file=%2Fa%2Fb"
    long = [f"data.root={'ä' * 300}"]
    assert len(Path(run_name(long)).name.encode()) < 200
    assert run_name(long) != run_name([*long, "seed=1"])
    _, hydra = composed()
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d{6}", hydra.sweep.dir)


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


@pytest.mark.parametrize("flags", FLAGS)
def test_a_run_with_a_loss_from_elsewhere_resumes_by_its_flags(flags: str, elsewhere: Path, tmp_path: Path) -> None:
    words, run, copy = flags.format(elsewhere).split(), tmp_path / "run", tmp_path / "copy"
    choices = [] if "--config-name" in words else ["loss=mine", "model=theirs"]
    begin = [*choices, "max_steps=8", DIVERGES, f"hydra.run.dir={run}", *words]
    assert train_py(*begin).returncode == 1
    shutil.copytree(run, copy)
    for arguments in ([GOES_ON, f"resume={run}", *words], [*words, GOES_ON, f"resume={copy}"]):
        assert "loss=mine model=theirs" in succeeds(*arguments)
    assert (run / "trace.npz").exists()
    assert "is finished" in succeeds(*begin)


def test_a_loss_from_elsewhere_is_swept_beside_a_custom_one(elsewhere: Path, tmp_path: Path) -> None:
    """Both keep their targets, and the report has the command as it was typed, but for the folder."""
    losses = ["loss=torch,mine,custom", "loss._target_=xent.losses.impostors.sum_for_mean"]
    typed = ["--config-dir", str(elsewhere), "-m", *losses, *small(nudge="0,1", precision="float64")]
    assert "beyond the limit from step 1 on" in succeeds(*typed, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    verdicts = {name: figures["verdict"] for name, figures in judged(tmp_path / "sweep" / "comparison").items()}
    assert verdicts == {"mine": "same within rounding", "sum_for_mean": "different"}
    assert f"train.py {' '.join(typed)}\n" in (tmp_path / "sweep" / "comparison" / "report.md").read_text()


@pytest.mark.parametrize(("chdir", "root", "root_from_other", "resume"), PATHS)
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
    resumed = succeeds(f"resume={resume}", f"data.root={root_from_other}", GOES_ON)
    assert resumed.splitlines()[-1] == "../run"
    assert "../run is finished" in succeeds(f"resume={resume}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other", "run"]
    names = {path.name.partition(".")[0] for path in (tmp_path / "run").iterdir()}
    assert names <= {"", "checkpoint", "events", "nonfinite", "trace"}


@pytest.mark.parametrize("name", ["\\\\a\\b\\", "~a\"b'c,d=e f", "#a[b]", "[{a:b}", "$c ä 損"])
def test_a_run_in_a_folder_of_any_name_resumes(name: str, stopped: Path, tmp_path: Path) -> None:
    """By the command that is printed; resume= takes it as it is, not in Hydra's grammar."""
    folder = shutil.copytree(stopped, tmp_path / name)
    (advice,) = re.findall(r"to go on: python train\.py (.*)$", train_py(f"resume={folder}").stderr, re.MULTILINE)
    succeeds(*shlex.split(advice), GOES_ON)
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "trace.npz").exists()


def test_flags_beside_a_run_that_resumes(stopped: Path, tmp_path: Path) -> None:
    resume = f"resume={shutil.copytree(stopped, tmp_path / 'run')}"
    succeeds(resume, GOES_ON)
    for flags in (["--config-name", "train"], ["--cfg", "job"], ["-cn", "train"]):
        succeeds(resume, *flags)
        succeeds(*flags, resume)
    succeeds("loss=scratch", "--info")
    result = train_py(resume, "--no-such-flag")
    assert result.returncode == 2 and "unrecognized arguments: --no-such-flag" in result.stderr
