"""All that is to be known of a GPU, in one table: make cuda

Each part runs in a process of its own, so that one that fails, hangs or stops the GPU does not end the others, and all
end within nine minutes. Needs no network; a part whose packages are not installed says which it misses. The table is
left in docs/cuda.md too.
"""

import subprocess
import sys
import time
from datetime import date

import torch

from benchmarks.cuda_parts import PARTS, PROJECT

PAGE = PROJECT / "docs" / "cuda.md"
SECONDS = 530  # of all


def result(part: str, seconds: float) -> tuple[bool, str]:
    """Whether a part passed, and what it found."""
    command = [sys.executable, "-m", "benchmarks.cuda", part, "device=cuda"]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, f"not done after {seconds:.0f} s"
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [f"exit {done.returncode}"]
    return done.returncode == 0, said[-1]


def page(results: list[tuple[str, bool, str, float]]) -> str:
    """The results as a page in Markdown."""
    passed = sum(each[1] for each in results)
    where = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {date.today()}"
    rows = [
        f"| {part} | {'passed' if fine else 'FAILED'} | {found.replace('|', '/')} | {seconds:.0f} |"
        for part, fine, found, seconds in results
    ]
    head = ["# On a GPU", "", f"{where}: {passed} of {len(results)} passed. `make cuda` writes this page.", ""]
    return "\n".join([*head, "| what | | found | seconds |", "|---|---|---|---|", *rows, ""])


def main() -> None:
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no CUDA device here: nothing was run, expected a machine with a GPU")
        return
    end = time.monotonic() + SECONDS
    results = []
    for part, (_, limit) in PARTS.items():
        start = time.monotonic()
        fine, found = result(part, min(limit, end - start)) if end > start else (False, "no time was left")
        results.append((part, fine, found, time.monotonic() - start))
        print(f"{part}: {'passed' if fine else 'FAILED'}, {found}", flush=True)
        PAGE.write_text(page(results))
    print("\n" + page(results))
    sys.exit(not all(fine for _, fine, _, _ in results))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(PARTS[sys.argv[1]][0]("cuda"))
    else:
        main()
