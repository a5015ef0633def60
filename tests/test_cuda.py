"""What `make cuda` asks of a GPU, short, on a device that every machine has."""

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cuda
from benchmarks.cuda import PARTS, judged, run
from tests.helpers.commands import PROJECT, train_py

SHORT = "model.width=4 max_steps=8"
SHORTER = {  # what is added to the commands of a part that train
    "the proof of all losses": f"{SHORT} seed=0 nudge=0,1 max_steps=32",
    "compiled as not compiled": f"{SHORT} nudge=0,1",
    "losses in bfloat16": f"{SHORT} nudge=0,1",
    "resumed on the CPU": "model.width=4 batch_size=10000",
}
SHORTER_BENCHMARKS = {"benchmarks.loss": "shapes=64x500 compiled=false", "benchmarks.training": "steps=4 rounds=1"}
# A device that is written in Python has no code of torch.compile, no types of autocast, and no memory of its own.
ON_THE_CPU = ["compiled as not compiled", "losses in bfloat16", "time and memory of large losses"]
ELSEWHERE = {
    "tests of losses": "they are run by themselves",
    "tests of trainings": "they are run by themselves",
    "99 % of MNIST": "it starts train.py in another process, which has no such device, and takes long on a CPU",
}


def in_this_process(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run a command of Python, `train.py ...` or `-m module ...`; its exit code, and what train.py prints."""
    first, *arguments = shlex.split(command)
    if first == "train.py":
        result = train_py(*arguments)
        return result.returncode, result.stdout
    module, *arguments = arguments
    monkeypatch.setattr("sys.argv", [module, *arguments])
    try:
        importlib.import_module(module).main()
    except SystemExit as end:
        return int(end.code or 0), ""
    return 0, ""


@pytest.mark.accelerator
@pytest.mark.parametrize("part", PARTS)
def test_a_part_passes(part: str, accelerator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if part in ELSEWHERE and accelerator != "cuda":
        pytest.skip(ELSEWHERE[part])
    device = "cpu" if part in ON_THE_CPU and accelerator != "cuda" else accelerator
    output = ""
    for command in PARTS[part][0]:
        command = command.replace("FOLDER", str(tmp_path)).replace("cuda", device)
        if command.startswith("train.py"):
            command += f" {SHORTER.get(part, SHORT)}"
        command += next((f" {shorter}" for module, shorter in SHORTER_BENCHMARKS.items() if module in command), "")
        code, output = in_this_process(command, monkeypatch)
        assert code == 0, output
    if part == "resumed on the CPU":
        assert ": resuming after step 6 of 12 steps\n" in output


def test_a_sweep_with_a_run_that_is_different_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = f"loss=torch,impostor/softmax_twice nudge=0,1 precision=float64 model=mlp device=cpu {SHORT}"
    commands = (command.replace("FOLDER", str(tmp_path)) for command in judged(swept))
    codes = [in_this_process(command, monkeypatch)[0] for command in commands]
    assert codes == [0, 1]


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
    monkeypatch.setattr(cuda, "LOGS", tmp_path)
    commands = {
        "one that fails": ["-c 'print(1)'", "-c 'raise KeyError(2)'", "-c 'print(3)'"],
        "one that hangs": ["-c 'import time; time.sleep(60)'"],
        "one that is right": ["-c 'print(4)'"],
    }
    monkeypatch.setattr(
        cuda, "PARTS", {part: (asked, 1 if "hangs" in part else 30) for part, asked in commands.items()}
    )
    with pytest.raises(SystemExit) as end:
        cuda.main()
    assert end.value.code == 1
    page = (tmp_path / "cuda.md").read_text()
    assert "a GPU, PyTorch" in page and ": 1 of 3 passed." in page
    assert [line.split("|")[2].strip() for line in page.splitlines()[6:9]] == ["FAILED", "FAILED", "passed"]
    assert "```text\n1\nTraceback" in page and "KeyError: 2\n```" in page
    assert "```text\nnot done after 1 s\n```" in page and "```text\n4\n```" in page
    assert page in capsys.readouterr().out

    monkeypatch.setattr(cuda, "SECONDS", 0)
    with pytest.raises(SystemExit):
        cuda.main()
    assert (tmp_path / "cuda.md").read_text().count("not run: no time was left") == 3


def test_a_part_of_tests_says_which_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "PROJECT", tmp_path)
    monkeypatch.setattr(cuda, "LOGS", tmp_path)
    (tmp_path / "tests" / "losses").mkdir(parents=True)
    (tmp_path / "tests" / "losses" / "test_accelerator.py").write_text(
        "import pytest\ndef test_fails(): assert 1 == 2\ndef test_passes(): pass\ndef test_skips(): pytest.skip('x')\n"
    )
    result = run("tests of losses", *PARTS["tests of losses"])
    assert not result.passed
    assert result.output[-1].startswith("1 failed, 1 passed, 1 skipped in ")
    assert result.output[-2].endswith("::test_fails - assert 1 == 2")
