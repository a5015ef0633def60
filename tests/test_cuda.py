"""What `make cuda` asks of a GPU, short, on a device that every machine has."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cuda, cuda_parts, measure
from benchmarks.cuda_parts import PARTS
from tests.helpers.commands import PROJECT

SHORT = ["model.width=4", "max_steps=8"]
SHORTER = {
    "the mlp as on the CPU": SHORT,
    "the cnn as on the CPU": SHORT,
    "the proof of all losses": [*SHORT, "seed=0", "nudge=0,1", "max_steps=32"],
    "compiled as not compiled": [*SHORT, "nudge=0,1"],
    "losses in bfloat16": [*SHORT, "nudge=0,1"],
    "gone on with on the CPU": ["model.width=4", "batch_size=10000"],
}
# A device that is written in Python has no code of torch.compile, no types of autocast, and no memory of its own.
ON_THE_CPU = ["compiled as not compiled", "losses in bfloat16", "large losses over PyTorch's"]
ELSEWHERE = {
    "tests of losses": "they are run by themselves",
    "tests of trainings": "they are run by themselves",
    "99 % of MNIST": "it starts train.py in another process, which has no such device, and takes long on a CPU",
}


@pytest.fixture(autouse=True)
def _as_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what train.py leaves in its process."""
    monkeypatch.setattr("sys.argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


@pytest.mark.accelerator
@pytest.mark.parametrize("part", PARTS)
def test_a_part_finds_something(part: str, accelerator: str) -> None:
    if part in ELSEWHERE and accelerator != "cuda":
        pytest.skip(ELSEWHERE[part])
    ask, _ = PARTS[part]
    device = "cpu" if part in ON_THE_CPU and accelerator != "cuda" else accelerator
    if part == "an epoch over its arithmetic":
        found = ask(device, rounds=1, models=("mlp",))
    elif part == "large losses over PyTorch's":
        found = ask(device, rows=64, classes=500)
    else:
        found = ask(device, *SHORTER.get(part, []))
    assert found


def test_a_run_that_is_different_does_not_pass() -> None:
    with pytest.raises(AssertionError, match="1 different"):
        cuda_parts.compared(
            "loss=torch,impostor/softmax_twice", "nudge=0,1", "precision=float64", "model=mlp", "device=cpu", *SHORT
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "cuda", f"BIN={Path(sys.executable).parent}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        f"PyTorch {torch.__version__} sees no CUDA device here: nothing was run, expected a machine with a GPU\n"
    )
    assert done.stderr == ""


def test_it_goes_on_after_a_part_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(cuda, "PAGE", tmp_path / "cuda.md")
    monkeypatch.setattr(cuda, "PARTS", dict.fromkeys(["no such part", "nor this"], (None, 60)))
    for seconds, said in ((60, "KeyError: 'nor this'"), (1, "not done after 1 s"), (0, "no time was left")):
        monkeypatch.setattr(cuda, "SECONDS", seconds)
        with pytest.raises(SystemExit):
            cuda.main()
        page = (tmp_path / "cuda.md").read_text()
        assert "a GPU, PyTorch" in page and ": 0 of 2 passed." in page
        assert f"FAILED | {said} |" in page
        assert page in capsys.readouterr().out


def test_the_command_line_of_a_part_is_read_by_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cuda.py", "99 % of MNIST", "device=cuda"])
    assert measure.option("device", "cpu") == "cuda"


def test_what_tests_found_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda_parts, "PROJECT", tmp_path)
    (tmp_path / "tests" / "losses").mkdir(parents=True)
    (tmp_path / "tests" / "losses" / "test_accelerator.py").write_text(
        "import pytest\ndef test_fails(): assert 1 == 2\ndef test_passes(): pass\ndef test_skips(): pytest.skip('x')\n"
    )
    with pytest.raises(
        AssertionError, match="1 failed, 1 passed, 1 skipped in .*; FAILED .*::test_fails - assert 1 == 2"
    ):
        cuda_parts.tests("losses", "cuda")
