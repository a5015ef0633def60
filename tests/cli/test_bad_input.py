"""What the commands say to bad input and bad surroundings: one line, never a traceback, and nothing is written."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers.commands import PROJECT, run_of, small, succeeds, the_line, train_py
from xent.cli.compose import NO_EFFECT

COUNTS = ("epochs", "max_steps", "batch_size", "log_every", "model.width", "accumulate", "timeout")
WEIGHTED = "+loss.weight=[0,1,1,1,1,1,1,1,1,1] +loss.label_smoothing=0.1 accumulate=2"
TYPOS = "model=mlp,cnnn nudge=0,-1 loss=torch,scrtch optimizer.lrr=0.1,0.2 optimizer.nesterov=true,maybe epochs=-1"
RAW = Path("data", "MNIST", "raw")
CAPABILITIES_VERSION_3, DAC_OVERRIDE, DAC_READ_SEARCH = 0x20080522, 1 << 1, 1 << 2


@pytest.fixture(autouse=True)
def _an_empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*overrides: str) -> str:
    """What a training says that must leave nothing where it would have written."""
    line = the_line(train_py(*overrides))
    assert not list(Path("outputs").glob("**/*"))
    return line


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("loss=none", "loss=none: expected one of article, custom, fused, scratch, torch, impostor/NAME"),
        ("loss=custom", "loss._target_ is not set: give it as loss._target_=..."),
        ("epochs=two", "epochs=two: expected a whole number"),
        *((f"{count}=0", f"{count}=0: expected a whole number of at least 1") for count in COUNTS),
        ("epochs=1000000 max_steps=null", "epochs=1000000 are 468,000,000 steps: expected at most 100,000,000"),
        ("log_every=-1", "log_every=-1: expected a whole number of at least 1"),
        ("batch_size=60001", "batch_size=60001: MNIST has 60000 training images"),
        ("batch_size=7 accumulate=8", "batch_size=7: expected at least 8, processes times accumulate"),
        ("compile=true accumulate=3", "batch_size=128: expected at least 3, processes times accumulate, and with "),
        ("seed=-1", "seed=-1: expected a whole number from 0 to"),
        (f"seed={2**63}", f"seed={2**63}: expected"),
        ("precision=float8", "precision=float8: expected one of [float32, float64, bfloat16, float16]"),
        ("precision=float16", "precision=float16: expected float32, float64 or bfloat16; loss_precision may be"),
        ("data.crop_padding=-1", "data.crop_padding=-1: expected"),
        ("data.std=[0]", "data.std=[0.0]: expected positive numbers"),
        ("optimizer.lr=-1", "Invalid learning rate: -1"),
        ("optimizer.lr=fast", "optimizer.lr=fast: expected a number"),
        ("optimizer.momentum=x", "SGD cannot be built (TypeError: '<' not supported between instances of 'str' and "),
        ("optimizer.momentum=x", "'float'): it takes params, lr=0.001, momentum=0, "),
        ("model.width=wide", "model.width=wide: expected a whole number of at least 1"),
        ("loss=temperature", "loss=temperature: did you mean impostor/temperature? It is one of article, "),
        ("optimizer.depth=3", "optimizer.depth is not set: to add an argument, write +optimizer.depth=..."),
        ("optimizer=adamw optimizer.beta=3", "optimizer.beta is not a setting: did you mean optimizer.betas?"),
        ("+optimizer.speed=3", "unexpected keyword argument 'speed'"),
        ("optimizer.nesterov=maybe", "the optimizer cannot make a step (TypeError: _fused_sgd_() received an invalid"),
        ("optimizer._target_=torch.optim.LBFGS", "torch.optim.lbfgs.LBFGS cannot be built (TypeError: "),
        ("model.widht=3", "model.widht is not a setting: did you mean model.width?"),
        ("+model.depth=3", "unexpected keyword argument 'depth'"),
        ("model.norm=layer", "model.norm=layer: expected batch, group, none"),
        ("model.norm=batch batch_size=4 accumulate=4", "batch normalisation needs two images in each part"),
        (WEIGHTED, "label_smoothing=0.1 and a class of weight 0: a part of that class alone has no mean"),
        ("+loss.weight=[a,2]", "CrossEntropyLoss cannot be built (TypeError: cannot assign 'list'"),
        ("+loss.reduction=none", "class indices [128] is of shape (128,): expected one number, as their mean"),
        ("loss._target_=builtins.dict", "loss._target_=builtins.dict: expected beside loss=custom, add that"),
        ("loss=custom loss._target_=builtins.dict", "made a dict: expected a torch.nn.Module, or a function"),
        ("processes=2", "processes is not a setting: expected one of loss, model, data, "),
        ("+voltage=3", "voltage is not a setting: expected one of loss, model, data, "),
        ("--loss=scratch", "--loss=scratch: a setting has no dashes, write loss=scratch"),
        ("precision=fp64", "precision=fp64: expected one of [float32, float64, bfloat16, float16]"),
        ("timeout=99999999999", "timeout=99999999999: expected at most 604800 seconds, a week"),
        ("data.crop_padding=100000", "data.crop_padding=100000: expected a whole number from 0 to 32"),
        ("loss=custom loss._target_=torch.nn.CrossEntropyLos", "did you mean torch.nn.CrossEntropyLoss?"),
        ("nudge=a", "nudge=a: expected a whole number"),
        ("channels_last=maybe", "channels_last=maybe: expected true or false"),
        ("lr=0.1", "lr is not a setting: did you mean optimizer.lr?"),
        ("+lr=0.1", "lr is not a setting: did you mean optimizer.lr?"),
        ("optimiser.lr=0.1", "optimiser.lr is not a setting: did you mean optimizer.lr?"),
        ("los=scratch", "los is not a setting: did you mean loss?"),
        ("loss=scrach", "loss=scrach: did you mean scratch? It is one of article, "),
        ("loss=impostor/foo", "loss=impostor/foo: expected one of impostor/softmax_twice, "),
        ("experiment=proof", "experiment has no default: write +experiment=..."),
        ("~nudge", "nudge is not set: give it as nudge=..."),
        ("~loss=torch", "loss is not set: give it as loss=..."),
        ("seed=1,01", "seed=1,01: a run takes one value, or a list as key=[1,2]; add -m to sweep"),
        ("-m seed=interval(0,1)", "INTERVAL_SWEEP: expected values, as seed=0,1,2 or seed=range(0,3)"),
        ("-m seed=1,01", "two runs of the sweep are the same: seed=1 and seed=01"),
        ("-m seed=range(0,0)", "a sweep without runs: expected values to sweep over, as seed=0,1"),
        ("-m loss=torch,", "'loss=torch,' cannot be read: expected key=value"),
        ("loss=custom loss._target_=nope.Loss", "nope.Loss cannot be found (No module named 'nope'): expected package"),
        ("loss=custom loss._target_=tests.helpers.faulty_losses.nan", "is not finite, even of logits from 0 to 1: it"),
        ("device=tpu", "device=tpu"),
    ],
)
def test_bad_settings(overrides: str, says: str) -> None:
    assert says in refused(*overrides.split())


def test_a_module_that_cannot_be_imported_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "without_imports.py").write_text("class Loss(nn.Module): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = refused("loss=custom", "loss._target_=without_imports.Loss")
    assert line.startswith("without_imports cannot be imported (NameError: name 'nn' is not defined; ")
    assert line.endswith("without_imports.py:1: class Loss(nn.Module): ...)")
    (tmp_path / "of_nothing.py").write_text("import nothing_here\n")
    line = refused("loss=custom", "loss._target_=of_nothing.Loss")
    assert line.startswith("of_nothing cannot be imported (ModuleNotFoundError: No module named 'nothing_here'; ")
    (tmp_path / "no_code.py").write_text("x = = 1\n")
    line = refused("loss=custom", "loss._target_=no_code.Loss")
    assert line == "no_code cannot be imported (SyntaxError: invalid syntax (no_code.py, line 1))"


@pytest.mark.parametrize("typo", TYPOS.split())
def test_a_mistyped_sweep_is_refused_before_any_run_is_trained(typo: str) -> None:
    overrides = {word.partition("=")[0]: word for word in ("loss=torch,scratch", *small(nudge=0), typo)}
    refused("-m", *overrides.values())


def test_an_experiment_that_is_a_sweep_is_not_half_trained() -> None:
    expected = "+experiment=switch is a sweep over loss, nudge: expected -m too, python train.py -m"
    assert refused("+experiment=switch").startswith(expected)
    assert train_py("+experiment=switch", "loss=scratch", "nudge=0", "max_steps=1").returncode == 0


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    """The arguments of a training on a copy of the archives of MNIST."""
    shutil.copytree(PROJECT / RAW, tmp_path / RAW)
    return [*small(), f"data.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]


@pytest.mark.parametrize("file", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"])
def test_damaged_data_is_not_trained_on(file: str, training: list[str], tmp_path: Path) -> None:
    raw = tmp_path / RAW
    shutil.copy(raw / "t10k-labels-idx1-ubyte.gz", raw / f"{file}-ubyte.gz")
    line = the_line(train_py(*training))
    assert line.startswith(f"{raw / file}-ubyte.gz is damaged: its MD5 is not ")
    assert line.endswith(", as published; delete it and get it again")
    assert not (tmp_path / "run").exists()


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


def change_mode(folder: Path, mode: str) -> None:
    subprocess.run(["chmod", "--recursive", mode, str(folder)], check=True)


@pytest.mark.usefixtures("_as_a_plain_user")
def test_data_may_be_read_only_and_of_a_run_that_is_the_command_says_so(training: list[str], tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    change_mode(data, "a=rX")
    before = sorted(data.rglob("*"))
    succeeds(*training, "max_steps=null", "batch_size=20000", "epochs=1")
    assert sorted(data.rglob("*")) == before
    change_mode(run, "a=rX")
    line = the_line(train_py(f"resume={run}", "epochs=2"))
    assert line.startswith(f"cannot write {run}/") and "(Permission denied): give another folder" in line
    line = the_line(train_py(*small(), f"hydra.run.dir={run / 'new'}"))
    assert line.startswith(f"cannot write {run / 'new'} (Permission denied): give another folder")
    Path("outputs").write_text("a file in the way")
    assert the_line(train_py(*small())).startswith("cannot write outputs")


@pytest.mark.usefixtures("_as_a_plain_user")
@pytest.mark.parametrize("mode", ["a=", "a=r", "a=x"])
def test_data_that_may_not_be_read(mode: str, training: list[str], tmp_path: Path) -> None:
    change_mode(tmp_path / "data" / "MNIST", mode)
    line = the_line(train_py(*training))
    assert line.startswith(f"{tmp_path / RAW / 'train-images-idx3-ubyte.gz'} cannot be read or downloaded (")
    assert "ermission denied" in line or "rrno 13" in line
    assert not (tmp_path / "run").exists()


def test_a_user_without_a_name_or_a_home(tmp_path: Path) -> None:
    """As in a container that is given a number for its user."""
    (tmp_path / "sitecustomize.py").write_text("import pwd\npwd.getpwuid = {}.__getitem__  # raises KeyError\n")
    sweep = ["-m", *small(), "loss=torch,scratch", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, PROJECT / "train.py", *sweep], env=environment, capture_output=True)
    assert (result.returncode, b"Traceback" in result.stderr) == (0, False), result.stderr
    assert (tmp_path / "sweep" / "comparison" / "report.md").exists()


KEYS = [  # without compile, which takes long
    *(key for key in run_of(Path("run")).settings if not key.startswith(("machine.", "processes", "compile"))),
    *NO_EFFECT,
    *("loss.weight", "loss.reduction", "loss.label_smoothing", "loss.nonsense", "optimizer.betas", "nonsense"),
    *("hydra.run.dir", "hydra.nonsense", "hydra/launcher", "resume", "experiment"),
]
VALUES = [
    *("", "null", "true", "yes", "0", "1", "-1", "2", "1.5", "1e12", "-1e-12", "1e400", "nan", "inf", "-inf", "0x10"),
    *("99999999999999999999999", "torch", "scratch", "cnn", "resnet", "mnist", "adamw", "float64", "bfloat16"),
    *("auto", "cpu", "cuda:7", "cuda:-1", "meta", "[1,2]", "[]", "{}", "{a:1}", "{_target_:os.getcwd}"),
    *("[0.5]", "[nan]", "${seed}", "${nonsense}", "${oc.env:NONSENSE}", "???", "'", '"', "'a'", "a b", "a,b", "a=b"),
    *("[", "${", "\\", "\n", "ä", "損失", "🙂", "\u202e", "builtins.dict", "xent.CrossEntropyLossFromScratch"),
    *("nonsense.Nonsense", "/dev/null", "~"),
]
key = st.sampled_from(KEYS) | st.text(max_size=8)
value = st.sampled_from(VALUES) | st.integers().map(str) | st.floats().map(str) | st.text(max_size=8)
override = st.builds("{}{}={}".format, st.sampled_from(["", "", "", "+", "++", "~"]), key, value)
argument = (override | st.text(max_size=12)).filter(lambda text: not text.startswith("-") and "\0" not in text)


@pytest.fixture
def _offline_with_little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=URLError("no network in this test")))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, limits[1]))  # huge numbers ask for more
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in Linux's way")
@pytest.mark.usefixtures("_offline_with_little_memory")
@settings(max_examples=int(os.environ.get("FUZZ", "30")), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(argument, min_size=1, max_size=3))
@example(["loss=null"])
@example(["epochs=1000000000000", "max_steps=null"])
@example(["model.width=1000000000000"])
@example(["seed=99999999999999999999999"])
@example(["optimizer.lr=nan"])
@example(["optimizer.nesterov="])
@example(["data.mean=[nan]"])
@example(["~loss"])
@example(["resume="])
@example(["+__dict__="])
def test_any_command_line_is_a_training_or_one_line(arguments: list[str]) -> None:
    """A small training, if what is drawn does not say otherwise."""
    result = train_py("model=mlp", "model.width=4", "max_steps=2", f"data.root={PROJECT / 'data'}", *arguments)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode in (0, 1, 2), result.stderr
    assert "Traceback" not in result.stderr
    assert len(lines) == 1 or result.returncode == 0, result.stderr
