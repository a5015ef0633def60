"""Whatever is on the command line: a training, or one clear line, never a traceback."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers.commands import PROJECT, run_of, train_py
from xent.cli.compose import NO_EFFECT

ROOM = 4 * 2**30  # bytes for what huge numbers ask for

SETTINGS = [key for key in run_of(Path("run")).settings if not key.startswith(("machine.", "processes", "compile"))]
KEYS = [
    *SETTINGS,  # without compile, which takes long
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

# So that what is trained is trained in a moment; what is drawn comes after, and may say otherwise.
SMALL = ["model=mlp", "model.width=4", "max_steps=2", f"data.root={PROJECT / 'data'}"]


@pytest.fixture(scope="module")
def _a_safe_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty working directory, no network, and no more memory than is reasonable."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network in this test")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, limits[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        patch.setattr("urllib.request.urlopen", offline)
        yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in Linux's way")
@pytest.mark.usefixtures("_a_safe_place")
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
    result = train_py(*SMALL, *arguments)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode in (0, 1, 2), result.stderr
    assert "Traceback" not in result.stderr
    assert len(lines) == 1 or result.returncode == 0, result.stderr
