"""What `make cuda` asks of a GPU, short, on a device that every machine has."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import cuda
from benchmarks.cuda import PARTS
from tests.helpers.commands import PROJECT, compare_py, train_py
from xent.training import datasets

SHORT = "model.width=4 max_steps=8 nudge=0,1"
SHORTER = {  # what is added to the commands of a part
    "the mlp as on the CPU": f"{SHORT} precision=float64",
    "the cnn as on the CPU": f"{SHORT} precision=float32",
    "the proof of all losses": f"{SHORT} precision=float32 seed=0",
    "time and memory of large losses": "shapes=64x500 compiled=false",
    "an epoch": "steps=1 rounds=1",
    "resumed on the CPU": "model.width=4 batch_size=50",
}
# A device that is written in Python has no code of torch.compile, no types of autocast, and no memory of its own.
ON_THE_CPU = ["compiled as not compiled", "losses in bfloat16", "time and memory of large losses"]
# The first two are run by themselves. The last starts train.py in another process, which has no such device.
ELSEWHERE = ["tests of losses", "tests of trainings", "99 % of MNIST"]


@pytest.mark.accelerator
@pytest.mark.parametrize("part", [part for part in PARTS if part not in ELSEWHERE])
def test_a_part_passes(part: str, accelerator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = zip(datasets.read("MNIST", PROJECT / "data"), (300, 270))  # how many images of each are enough
    little = [split._replace(images=split.images[:size], labels=split.labels[:size]) for split, size in splits]
    monkeypatch.setattr(datasets, "read", lambda name, root: little)
    device = "cpu" if part in ON_THE_CPU and accelerator != "cuda" else accelerator
    for command in PARTS[part][0]:
        command = command.replace("FOLDER", str(tmp_path)).replace("cuda", device).replace("nudge=0,1,2 ", "")
        words, shorter = shlex.split(command), SHORTER.get(part, SHORT).split()
        if words[1].startswith("benchmarks."):
            monkeypatch.setattr("sys.argv", [*words[1:], *shorter])
            importlib.import_module(words[1]).main()
            continue
        result = compare_py(*words[2:]) if words[1] == "xent.compare" else train_py(*words[1:], *shorter)
        assert result.returncode == 0, result
        assert part != "resumed on the CPU" or device in command or ": resuming after step 6 of 12" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cuda.main()
    sees = f"PyTorch {torch.__version__} sees no CUDA device here"
    assert capsys.readouterr() == (f"{sees}: nothing was run, expected a machine with a GPU\n", "")
    dry = subprocess.run(
        ["make", "--no-print-directory", "-n", "cuda"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"\S*python3? -m benchmarks\.cuda\n", dry.stdout)


def test_it_goes_on_after_a_part_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    for name, value in {"PAGE": tmp_path / "cuda.md", "LOGS": tmp_path, "PROJECT": tmp_path}.items():
        monkeypatch.setattr(cuda, name, value)
    tests = tmp_path / "tests" / "losses" / "test_accelerator.py"
    tests.parent.mkdir(parents=True)
    tests.write_text("import pytest\ndef test_a(): assert 1 == 2\ndef test_b(): pass\ndef test_c(): pytest.skip('x')\n")
    parts = {
        "fails": (["-c 'print(1)'", "-c 'raise KeyError(2)'", "-c 'print(3)'"], 30),
        "hangs": (["-c 'import time; time.sleep(60)'"], 1),
        "tests of losses": PARTS["tests of losses"],
        "is right": (["-c 'print(4)'"], 30),
    }
    monkeypatch.setattr(cuda, "PARTS", parts)
    with pytest.raises(SystemExit, match="True"):
        cuda.main()
    page = cuda.PAGE.read_text()
    assert "a GPU, PyTorch" in page and ": 1 of 4 passed." in page
    assert [line.split("|")[2].strip() for line in page.splitlines()[6:10]] == ["FAILED", "FAILED", "FAILED", "passed"]
    assert "```text\n1\nTraceback" in page and "KeyError: 2\n```" in page
    assert "```text\nnot done after 1 s\n```" in page and "```text\n4\n```" in page
    assert re.search(r"::test_a - assert 1 == 2\n1 failed, 1 passed, 1 skipped in .*\n```", page)
    assert page in capsys.readouterr().out

    monkeypatch.setattr(cuda, "SECONDS", 0)
    with pytest.raises(SystemExit, match="True"):
        cuda.main()
    assert cuda.PAGE.read_text().count("not run: no time was left") == 4
