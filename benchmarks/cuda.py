"""All that is to be known of a GPU, in one table: make cuda

Each part runs in processes of its own, so that one that fails, hangs or stops the GPU does not end the others, and all
end within nine minutes. Needs no network; a part whose packages are not installed says which it misses. The table is
left in docs/cuda.md, and all that the parts print under outputs/cuda/.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date

import torch

from benchmarks.cuda_parts import PARTS, PROJECT

PAGE = PROJECT / "docs" / "cuda.md"
SECONDS = 530  # of all

Result = tuple[str, bool, str, float]  # the part, whether it passed, what it found, and the seconds that it took


def result(part: str, seconds: float) -> Result:
    """That of a part, ended with all that it has started when its time is over."""
    log = PROJECT / "outputs" / "cuda" / f"{part}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("w") as output:
        command = [sys.executable, "-m", "benchmarks.cuda", part, "device=cuda"]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True)
        try:
            passed = process.wait(seconds) == 0
            found = (log.read_text().strip().splitlines() or [f"exit {process.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            passed, found = False, f"not done after {seconds:.0f} s"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return part, passed, found, time.monotonic() - start


def page(results: list[Result]) -> str:
    """The results as a page in Markdown."""
    where = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {date.today()}"
    rows = [
        f"| {part} | {'passed' if passed else 'FAILED'} | {found.replace('|', '/')} | {seconds:.0f} |"
        for part, passed, found, seconds in results
    ]
    head = f"# On a GPU\n\n{where}: {sum(each[1] for each in results)} of {len(PARTS)} passed.\n"
    return "\n".join(
        [head, "| what | | found | seconds |", "|---|---|---|---|", *rows, "", "`make cuda` wrote this page.", ""]
    )


def main() -> None:
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no CUDA device here: nothing was run, expected a machine with a GPU")
        return
    end, results = time.monotonic() + SECONDS, []
    for part, (_, limit) in PARTS.items():
        left = end - time.monotonic()
        results.append(result(part, min(limit, left)) if left > 0 else (part, False, "no time was left", 0.0))
        PAGE.write_text(page(results))
        print(f"{part}: {'passed' if results[-1][1] else 'FAILED'}, {results[-1][2]}", flush=True)
    print("\n" + page(results))
    sys.exit(not all(passed for _, passed, _, _ in results))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(PARTS[sys.argv[1]][0]("cuda"))  # also said as device=cuda, for what asks the command line
    else:
        main()
