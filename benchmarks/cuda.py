"""Check and measure everything on a GPU: make cuda

Every part runs in separate processes, so that one that fails, hangs or stops the GPU does not end the others; all end
within nine minutes. Needs no network. Writes a table into docs/cuda.md, and all output under outputs/cuda/.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "cuda.md"
LOGS = PROJECT / "outputs" / "cuda"
SECONDS = 530  # of all parts
TAIL = 30  # lines of every output that the page shows
# cuBLAS looks once whether it is to repeat itself, and some tests multiply before any run is set up
ENVIRONMENT = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
PYTEST = "-m pytest -p no:cacheprovider -o addopts= -q -rfE --tb=short"
RESUMED = "train.py model=mlp hydra.run.dir=FOLDER"


def judged(overrides: str, compared: str = "") -> list[str]:
    """The commands that train a sweep and compare its runs, which exits with 1 if a verdict is `different`."""
    swept = "hydra.sweep.dir=FOLDER ~hydra.callbacks.compare"
    return [f"train.py -m {overrides} {swept}", f"-m xent.compare FOLDER {compared}"]


# The arguments of Python, one command after the other, and the most seconds that they may take.
PARTS: dict[str, tuple[list[str], int]] = {
    "the mlp as on the CPU": (
        judged("+experiment=device model=mlp device=cpu,cuda", "--by device --reference cpu"),
        60,
    ),
    "the cnn as on the CPU": (
        judged("+experiment=device model=cnn device=cpu,cuda", "--by device --reference cpu"),
        60,
    ),
    "tests of losses": ([f"{PYTEST} tests/losses/test_accelerator.py"], 90),
    "tests of trainings": ([f"{PYTEST} tests/training/test_accelerator.py"], 120),
    "the proof of all losses": (judged("+experiment=proof device=cuda"), 90),
    "time and memory of large losses": (["-m benchmarks.loss shapes=8192x128256 compiled=true device=cuda"], 90),
    "99 % of MNIST": (["-m benchmarks.accuracy device=cuda"], 60),
    "an epoch": (["-m benchmarks.training device=cuda"], 60),
    "compiled as not compiled": (
        judged("compile=False,True nudge=0,1,2 max_steps=128 model=mlp device=cuda", "--by compile --reference False"),
        60,
    ),
    "losses in bfloat16": (
        judged("loss=torch,scratch,fused nudge=0,1,2 precision=bfloat16 max_steps=128 device=cuda"),
        30,
    ),
    "resumed on the CPU": ([f"{RESUMED} epochs=1 device=cuda", f"{RESUMED} epochs=2 device=cpu"], 30),
}


class Result(NamedTuple):
    part: str
    passed: bool
    output: list[str]  # lines
    seconds: float

    @property
    def word(self) -> str:
        return "passed" if self.passed else "FAILED"


def run(part: str, commands: list[str], limit: float) -> Result:
    """Run the commands of a part; when its time is over, end all processes that it started."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{part}.txt"
    start = time.monotonic()
    with TemporaryDirectory() as folder, log.open("w") as output:
        script = " && ".join(f"{shlex.quote(sys.executable)} {command}" for command in commands)
        shell = ["sh", "-c", script.replace("FOLDER", folder)]
        process = subprocess.Popen(
            shell, cwd=PROJECT, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            passed = process.wait(limit) == 0
            lines = log.read_text().strip().splitlines() or [f"exit {process.returncode}"]
        except subprocess.TimeoutExpired:
            passed, lines = False, [f"not done after {limit:.0f} s"]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Result(part, passed, lines, time.monotonic() - start)


def page(results: list[Result]) -> str:
    """The results in Markdown: a table, and below it the end of every part's output."""
    where = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {date.today()}"
    passed = sum(result.passed for result in results)
    lines = ["# On a GPU", "", f"{where}: {passed} of {len(PARTS)} passed.", ""]
    lines += ["| part | | seconds |", "|---|---|---|"]
    lines += [f"| {result.part} | {result.word} | {result.seconds:.0f} |" for result in results]
    for result in results:
        lines += ["", f"## {result.part}", "", "```text", *result.output[-TAIL:], "```"]
    return "\n".join([*lines, "", "`make cuda` wrote this page.", ""])


def main() -> None:
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no CUDA device here: nothing was run, expected a machine with a GPU")
        return
    end, results = time.monotonic() + SECONDS, []
    for part, (commands, limit) in PARTS.items():
        left = end - time.monotonic()
        nothing = Result(part, False, ["not run: no time was left"], 0)
        results.append(run(part, commands, min(limit, left)) if left > 0 else nothing)
        PAGE.write_text(page(results))
        print(f"{part}: {results[-1].word}, {results[-1].seconds:.0f} s", flush=True)
    print("\n" + page(results))
    sys.exit(not all(result.passed for result in results))


if __name__ == "__main__":
    main()
