"""Every benchmark runs, at the smallest size that it has; nothing here is timed. `make cuda` is in test_cuda.py."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import accuracy, measure, others_losses, power, proof, published, verdict
from tests.helpers.commands import PROJECT

MODULES = sorted(file.stem for file in (PROJECT / "benchmarks").glob("*.py") if "__main__" in file.read_text())
FAST_RUN = ("model.width=4", "max_steps=24")


class InThisProcess:
    """A pool of processes that has none."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[..., Any], *arguments: Iterable[Any]) -> Iterator[Any]:
        return map(function, *arguments)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a benchmark in this process, with arguments as on its command line; what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", [name, *arguments])
        importlib.import_module(f"benchmarks.{name}").main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted({*MODULES} - {"cuda"}))
def test_an_unknown_argument_is_refused(name: str, main: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match=r"^devise=cuda: expected \w+=.*, or another value of these$"):
        main(name, "devise=cuda")


def test_loss(main: Callable[..., str]) -> None:
    printed = main("loss", "shapes=8x10,16x10")
    assert printed.count("scratch") == 2 and "16 x 10" in printed


def test_training(main: Callable[..., str]) -> None:
    printed = main("training", "steps=3", "rounds=1")
    assert printed.count("floor") == 3 and printed.count("DataLoader") == 2


def test_exactness(main: Callable[..., str]) -> None:
    assert "of the 448 figures of scratch and fused" in main("exactness", "elements=200")


def test_accuracy(main: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "TIMED", 1)
    monkeypatch.setattr(accuracy, "RECIPE", (*accuracy.RECIPE, *FAST_RUN))
    monkeypatch.setattr(accuracy, "PARTS", [("optimizer.lr=0.2",)])
    printed = main("accuracy", "seeds=2", "parts=true")
    assert "│ optimizer.lr=0.2 │ 24 " in printed and "PyTorch's example takes" in printed


def test_proof(main: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "PROOFS", {"a small one": (*proof.SMALL, *FAST_RUN, "seed=0", "nudge=0,1")})
    assert "a small one │ 4 " in main("proof")


def test_power(main: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(power, "ERRORS", {torch.float64: (1e-3,)})
    monkeypatch.setattr(power, "SEEDS", (1,))
    monkeypatch.setattr(power, "STEPS", (2, 4))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{power.BEGIN}\nold\n<!-- end -->\nafter\n")
    main("power", f"page={page}")
    lines = page.read_text().splitlines()
    assert lines[3] == "| precision | mistake | 2 steps, 1 seed | 4 steps, 1 seed |"
    assert lines[5].startswith("| float64 | 1e-03 | +") and lines[5].count("different") == 2
    assert [lines[0], *lines[-2:]] == ["before", "<!-- end -->", "after"]


def test_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verdict, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(verdict, "FIRST", 1)
    monkeypatch.setattr(verdict, "PRECISIONS", ("float64",))
    monkeypatch.setattr(verdict, "CORRECT", {change: None for change in verdict.CORRECT if change != "compile"})
    monkeypatch.setattr(verdict, "STEPS", {"mlp": 2})
    monkeypatch.setattr(verdict, "STEPS_OF_IMPOSTORS", {"mlp": 2})
    tables = list(verdict.tables(tmp_path, {"mlp": 1}).values())
    assert tables == list(verdict.tables(tmp_path, {"mlp": 1}).values()), "of traces that are kept"
    false_alarms, changes, misses, gradients = tables
    assert [row[3] for row in false_alarms] == ["wrong", *["0"] * 4]
    assert len(changes) == 1 + len(verdict.CORRECT)
    assert [row[:2] for row in misses[1:]] == [["mlp", "float64"]]
    assert gradients[1][0] == "1 + 1e-10" and "different" in gradients[1][1]


def test_losses_as_others_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others_losses, "ProcessPoolExecutor", InThisProcess)
    for cases in ("RIGHT", "WRONG"):
        monkeypatch.setattr(others_losses, cases, dict([next(iter(getattr(others_losses, cases).items()))]))
    monkeypatch.setattr(others_losses, "EVERY", (torch.float64,))
    right, wrong = others_losses.others_losses().values()
    assert right[1][0] == "one-hot targets" and "different" not in right[1][1]
    assert "different" in wrong[1][1]


def test_published(main: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = published.timm()
    monkeypatch.setitem(published.PACKAGES, "timm", lambda: dict([cases.popitem()]))
    printed = main("published", "packages=timm")
    assert "`PolyCrossEntropy(2)` | float64 | " in printed and printed.count("| yes |") == 2


def test_what_a_benchmark_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    works = {"slow": lambda: next(clock), "fast": lambda: None}
    rounds = measure.interleaved(works, 3, {"slow": 2})
    assert rounds == [{"slow": 1.5, "fast": 1.0}] * 3
    assert (measure.typical(rounds, "slow"), measure.ratio(rounds, "slow", "fast")) == (1.5, 1.5)
