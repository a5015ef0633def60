"""Every benchmark runs, at the smallest size that it has, and every part of `make cuda`; nothing here is timed."""

import importlib
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from benchmarks import (
    accuracy,
    exactness,
    loss,
    measure,
    others_losses,
    power,
    proof,
    published,
    step,
    training,
    verdict,
    where,
)
from benchmarks.cuda import PARTS, SECONDS
from benchmarks.cuda import main as make_cuda
from tests.helpers.commands import PROJECT, compare_py, train_py
from tests.helpers.published_files import shorten_mnist
from tests.helpers.right_losses import RIGHT, Case
from tests.helpers.wrong_losses import WRONG

MODULES = {file.stem for file in (PROJECT / "benchmarks").glob("*.py") if "__main__" in file.read_text()} - {"cuda"}
FAST_RUN = ("model.width=4", "max_steps=4")
SMOOTHED = Case(published.SMOOTHED, published.SMOOTHED, dtypes=(torch.float64,))
tutorials_mnist, all_cases = cache(training.tutorials_mnist), exactness.cases


def run_here(command: list[str], **_: object) -> None:
    """A command of train.py in this process, in place of `subprocess.run`."""
    assert command[:2] == [sys.executable, "train.py"]
    train_py(*command[2:]).check_returncode()


@pytest.fixture(autouse=True)
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run a benchmark by the words of its command line; what it prints. No process is started, MNIST unpacked once."""
    monkeypatch.setattr(measure, "subprocess", SimpleNamespace(run=run_here, DEVNULL=None))
    for module in (training, accuracy):
        monkeypatch.setattr(module, "tutorials_mnist", tutorials_mnist)
    for module in (verdict, others_losses):
        monkeypatch.setattr(module, "ProcessPoolExecutor", lambda *_: nullcontext(SimpleNamespace(map=map)))

    def run(command: str) -> str:
        monkeypatch.setattr("sys.argv", command.split())
        importlib.import_module(f"benchmarks.{command.split()[0]}").main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(MODULES))
def test_an_unknown_argument_is_refused(name: str, main: Callable[[str], str]) -> None:
    with pytest.raises(SystemExit, match=r"^devise=cuda: expected \w+=.*, or another value of these$"):
        main(f"{name} devise=cuda")


@patch.multiple(step, ROUNDS=1)
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
        ("step", r"mlp .* 25 tensors .*transformer .* 264 tensors "),
        ("exactness elements=100", r"of the 416 figures of scratch and fused"),
        ("accuracy seeds=2 parts=true", r"│ optimizer.lr=0.2 │ 4 .*PyTorch's example takes"),
        ("flips every=1009", r"\| trace.npz \| 82 \| \d+ \| \d+ \| 0 \|\n\| checkpoint.pt \| 106 \| 106 \| 0 \| 0 \|"),
        ("proof", r"a small one │ 4 "),
        ("published packages=torch", r"\| `CrossEntropyLoss\(0.1\)` in float64 \|  \| yes \|"),
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
    assert [row[3] for row in false_alarms] == ["wrong", *["0"] * 4] and len(changes) == 1 + len(verdict.CORRECT)
    assert misses[1:] == [["mlp", "float64", "2 of 2", ""]]
    assert gradients[1][0] == "1 + 1e-10" and "different" in gradients[1][1]


MUON = verdict.PROGRAMS["muon"]._replace(correct=("addmm",), wrong=("four iterations",))


@patch.multiple(verdict, PROGRAMS={"muon": MUON}, STEPS_OF_PROGRAMS=8, LATE=("momentum off",), LATE_KINDS=("mlp",))
def test_programs_as_others_write_them_and_late_mistakes() -> None:
    assert verdict.programs()[1] == ["float64", "1", "0", "1", "0"]
    (row,) = verdict.late()[1:]
    assert row[0] == "momentum off" and re.match("different, [0-9.]+e", row[1])


@patch.multiple(where, PROGRAMS={"muon": MUON}, LATE=("momentum off",))
@patch.multiple(where, EXPECTED={("muon", "four iterations"): "step 1, update of 0.weight"})
def test_where(main: Callable[[str], str]) -> None:
    printed = main("where")
    assert "| muon | four iterations | step 1, update of 0.weight | yes |" in printed
    assert "| update of | 2 |" in printed and "| 1 | 0 |  |" in printed


@patch.multiple(others_losses, EVERY=(torch.float64,))
@patch.multiple(
    others_losses, RIGHT={"logsumexp": RIGHT["logsumexp"]}, WRONG={"class 0 for padding": WRONG["class 0 for padding"]}
)
def test_losses_as_others_write_them() -> None:
    right, wrong = (table[1] for table in others_losses.others_losses().values())
    assert right[0] == "logsumexp" and "different" not in right[1]
    assert wrong[0] == "class 0 for padding" and "different" in wrong[1]


@pytest.mark.extra
def test_the_losses_of_timm_are_judged_as_a_direct_comparison_judges_them() -> None:
    _, same, different, agree = published.row_of("timm")
    assert same.endswith("`PolyCrossEntropy(2)` (but other on a class at -inf)"), "a product with one-hot targets"
    assert (same.count("but other on"), different, agree) == (1, "", "yes")


def test_what_a_benchmark_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    rounds = measure.interleaved({"slow": lambda: next(clock), "fast": lambda: None}, 3, {"slow": 2})
    assert rounds == [{"slow": 1.5, "fast": 1.0}] * 3
    assert (measure.typical(rounds, "slow"), measure.ratio(rounds, "slow", "fast")) == (1.5, 1.5)


SHORT = "model.width=4 max_steps=8 nudge=0,1"
SHORTER = {  # what is added to the commands of a part
    "the mlp as on the CPU": f"{SHORT} precision=float64",
    "the cnn as on the CPU": f"{SHORT} precision=float32",
    "the proof of all losses": f"{SHORT} precision=float32 seed=0 hydra.launcher.n_jobs=1",  # a device of this process
    "time and memory of large losses": "shapes=64x500 compiled=false",
    "an epoch": "steps=1 rounds=1",
    "resumed on the CPU": "model.width=4 batch_size=50",
}
# A device that is written in Python has no code of torch.compile, no types of autocast, and no memory of its own.
ON_THE_CPU = ["compiled as not compiled", "losses in bfloat16", "time and memory of large losses"]
ELSEWHERE = ["tests of losses", "tests of trainings", "99 % of MNIST"]  # two run by themselves, the last above


@pytest.mark.accelerator
@pytest.mark.parametrize("part", [part for part in PARTS if part not in ELSEWHERE])
def test_a_part_of_make_cuda_passes(
    part: str, accelerator: str, main: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_mnist(monkeypatch, train=300, test=270)  # which is enough
    device = "cpu" if part in ON_THE_CPU and accelerator != "cuda" else accelerator
    for command in PARTS[part][0]:
        command = command.replace("FOLDER", str(tmp_path)).replace("cuda", device).replace("nudge=0,1,2 ", "")
        words, shorter = shlex.split(command), SHORTER.get(part, SHORT).split()
        if words[1].startswith("benchmarks."):
            main(" ".join([words[1].removeprefix("benchmarks."), *words[2:], *shorter]))
            continue
        result = compare_py(*words[2:]) if words[1] == "xent.compare" else train_py(*words[1:], *shorter)
        assert result.returncode == 0, result
        assert part != "resumed on the CPU" or device in command or ": resuming after step 6 of 12" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_make_cuda_without_a_gpu_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    make_cuda()
    sees = f"PyTorch {torch.__version__} sees no CUDA device here"
    assert capsys.readouterr() == (f"{sees}: nothing was run, expected a machine with a GPU\n", "")


@patch.multiple(torch.cuda, is_available=lambda: True, get_device_name=lambda: "a GPU")
def test_make_cuda_goes_on_after_a_part_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = tmp_path / "tests" / "losses" / "test_accelerator.py"
    tests.parent.mkdir(parents=True)
    tests.write_text("import pytest\ndef test_a(): assert 1 == 2\ndef test_b(): pass\ndef test_c(): pytest.skip('x')\n")
    parts = {
        "fails": (["-c 'print(1)'", "-c 'raise KeyError(2)'", "-c 'print(3)'"], 30),
        "hangs": (["-c 'import time; time.sleep(60)'"], 1),
        "tests of losses": PARTS["tests of losses"],
        "is right": (["-c 'print(4)'"], 30),
    }

    def page_of(seconds: float) -> str:
        here = {"PAGE": tmp_path / "cuda.md", "LOGS": tmp_path, "PROJECT": tmp_path}
        with patch.multiple("benchmarks.cuda", PARTS=parts, SECONDS=seconds, **here), pytest.raises(SystemExit) as end:
            make_cuda()
        assert end.value.code == 1
        return (tmp_path / "cuda.md").read_text()

    page = page_of(seconds=SECONDS)
    assert [line.split("|")[2].strip() for line in page.splitlines()[6:10]] == ["FAILED", "FAILED", "FAILED", "passed"]
    outputs = "```text\n1\nTraceback", "KeyError: 2\n```", "```text\nnot done after 1 s\n```", "```text\n4\n```"
    assert all(text in page for text in ("a GPU, PyTorch", ": 1 of 4 passed.", *outputs))
    assert re.search(r"::test_a - assert 1 == 2\n1 failed, 1 passed, 1 skipped in .*\n```", page)
    assert page in capsys.readouterr().out
    assert page_of(seconds=0).count("not run: no time was left") == 4
