"""Every benchmark runs, at the smallest size that it has; nothing here is timed. `make cuda` is in test_cuda.py."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from benchmarks import accuracy, exactness, loss, measure, others_losses, power, proof, published, training, verdict
from tests.helpers.commands import PROJECT, train_py
from tests.helpers.right_losses import Case

MODULES = {file.stem for file in (PROJECT / "benchmarks").glob("*.py") if "__main__" in file.read_text()} - {"cuda"}
FAST_RUN = ("model.width=4", "max_steps=4")
SMOOTHED = Case(published.SMOOTHED, published.SMOOTHED, dtypes=(torch.float64,))
tutorials_mnist, all_cases = cache(training.tutorials_mnist), exactness.cases


def run_here(command: list[str], **_: object) -> None:
    """Run a command of train.py in this process, in place of `subprocess.run`."""
    assert command[:2] == [sys.executable, "train.py"]
    result = train_py(*command[2:])
    assert result.returncode == 0, result.stderr


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process is started, MNIST is unpacked once, and the number of threads stays."""
    monkeypatch.setattr(measure, "subprocess", SimpleNamespace(run=run_here, DEVNULL=None))
    for module in (training, accuracy):
        monkeypatch.setattr(module, "tutorials_mnist", tutorials_mnist)
    for module in (verdict, others_losses):
        monkeypatch.setattr(module, "ProcessPoolExecutor", lambda *_: nullcontext(SimpleNamespace(map=map)))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run a benchmark by the words of its command line; what it prints."""

    def run(command: str) -> str:
        monkeypatch.setattr("sys.argv", command.split())
        importlib.import_module(f"benchmarks.{command.split()[0]}").main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(MODULES))
def test_an_unknown_argument_is_refused(name: str, main: Callable[[str], str]) -> None:
    with pytest.raises(SystemExit, match=r"^devise=cuda: expected \w+=.*, or another value of these$"):
        main(f"{name} devise=cuda")


@patch.multiple(loss, ROUNDS=1, SECONDS_A_TURN=0, LOSSES={"torch": loss.LOSSES["torch"]})
@patch.multiple(exactness, cases=lambda *size: [case for case in all_cases(*size) if "100000 classes" not in case[0]])
@patch.multiple(accuracy, TIMED=1, RECIPE=(*accuracy.RECIPE, *FAST_RUN), PARTS=[("optimizer.lr=0.2",)])
@patch.multiple(proof, PROOFS={"a small one": (*proof.SMALL, *FAST_RUN, "seed=0", "nudge=0,1")})
@patch.dict(published.PACKAGES, torch=lambda: {"CrossEntropyLoss(0.1)": SMOOTHED})
@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("loss shapes=8x10,16x10", r"8 x 10 .*16 x 10 "),
        ("training steps=1 rounds=1", r"mlp .* floor .* DataLoader .*cnn .* floor .* DataLoader "),
        ("exactness elements=100", r"of the 416 figures of scratch and fused"),
        ("accuracy seeds=2 parts=true", r"│ optimizer.lr=0.2 │ 4 .*PyTorch's example takes"),
        ("proof", r"a small one │ 4 "),
        ("published packages=torch", r"`CrossEntropyLoss\(0.1\)` \| float64 \| .* \| yes \|"),
    ],
)
def test_a_benchmark_prints_its_table(command: str, printed: str, main: Callable[[str], str]) -> None:
    assert re.search(printed, main(command), re.DOTALL)


@patch.multiple(power, ERRORS={torch.float64: (1e-3,)}, SEEDS=(1,), STEPS=(2, 4))
@patch.dict(power.VARIANTS)
def test_power(main: Callable[[str], str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{power.BEGIN}\nold\n<!-- end -->\nafter\n")
    main(f"power page={page}")
    lines = page.read_text().splitlines()
    assert lines[3] == "| precision | mistake | 2 steps, 1 seed | 4 steps, 1 seed |"
    assert lines[5].startswith("| float64 | 1e-03 | +") and lines[5].count("different") == 2
    assert [lines[0], *lines[-2:]] == ["before", "<!-- end -->", "after"]


@patch.multiple(verdict, FIRST=1, PRECISIONS=("float64",), STEPS={"mlp": 2}, STEPS_OF_IMPOSTORS={"mlp": 2})
@patch.multiple(verdict, IMPOSTORS=["logarithm_to_base_2", "temperature"])
@patch.dict(verdict.CORRECT)
def test_verdict(tmp_path: Path) -> None:
    del verdict.CORRECT["compile"]
    tables = list(verdict.tables(tmp_path, {"mlp": 1}).values())
    assert tables == list(verdict.tables(tmp_path, {"mlp": 1}).values()), "of traces that are kept"
    false_alarms, changes, misses, gradients = tables
    assert [row[3] for row in false_alarms] == ["wrong", *["0"] * 4]
    assert len(changes) == 1 + len(verdict.CORRECT)
    assert misses[1:] == [["mlp", "float64", "2 of 2", ""]]
    assert gradients[1][0] == "1 + 1e-10" and "different" in gradients[1][1]


def test_losses_as_others_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others_losses, "EVERY", (torch.float64,))
    for cases in ("RIGHT", "WRONG"):
        monkeypatch.setattr(others_losses, cases, dict([*getattr(others_losses, cases).items()][:1]))
    right, wrong = others_losses.others_losses().values()
    assert right[1][0] == "one-hot targets" and "different" not in right[1][1]
    assert "different" in wrong[1][1]


@pytest.mark.extra
def test_the_losses_of_timm_are_judged_as_a_direct_comparison_judges_them() -> None:
    assert [row[-1] for row in published.rows_of("timm")] == ["yes"] * 6


def test_what_a_benchmark_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    rounds = measure.interleaved({"slow": lambda: next(clock), "fast": lambda: None}, 3, {"slow": 2})
    assert rounds == [{"slow": 1.5, "fast": 1.0}] * 3
    assert (measure.typical(rounds, "slow"), measure.ratio(rounds, "slow", "fast")) == (1.5, 1.5)
