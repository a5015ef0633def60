"""Whether memory stays flat under load, and TensorBoard opens what is left: python -m benchmarks.load [device=cuda]

A sweep of a hundred runs, and a run of 100,000 steps: resident memory half-way and at the end, and the
seconds until a TensorBoard server that was started on them lists every run and gives the last point of a curve.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.measure import CONSOLE, PROJECT, measured_device, option, table

SMALL = ["model=mlp", "model.width=16", "batch_size=64", "optimizer.lr=0.02"]
LOADS = {
    "100 runs": ["-m", "loss=torch,scratch", f"seed={','.join(map(str, range(50)))}", "max_steps=20"],
    "100,000 steps": ["max_steps=100000", "epochs=1000", "log_every=10"],
}


def resident(process: subprocess.Popen[bytes]) -> float:
    """MB of a process's memory (on Linux)."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def samples(arguments: list[str]) -> list[float]:
    """Resident memory of `python train.py` every half a second."""
    command = [sys.executable, "train.py", *arguments, f"device={option('device', 'cpu')}"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    found = []
    while process.poll() is None:
        found.append(resident(process))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(process.returncode)
    return found[:-1]  # the last may be of a process that was ending


def opened(folder: Path, runs: int) -> tuple[float, int]:
    """Seconds until TensorBoard lists so many runs with points of `train/loss`, and how many points one of them has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    start = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(path: str) -> object:
        with urlopen(f"http://127.0.0.1:{port}/data/plugin/scalars/{path}") as answer:
            return json.load(answer)

    try:
        while True:
            time.sleep(0.2)
            try:
                listed = get("tags")
            except URLError:
                continue
            trained = [run for run, tags in listed.items() if "test/loss" in tags]  # type: ignore[attr-defined]
            if len(trained) == runs:
                points = get(f"scalars?tag=train%2Floss&run={trained[0].replace('=', '%3D').replace(',', '%2C')}")
                return time.perf_counter() - start, points[-1][1]  # type: ignore[index]
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    columns = "load", "seconds", "MB half-way", "MB at the end", "TensorBoard, seconds", "last step"
    result = table("Load", *columns, device=measured_device())
    for name, arguments in LOADS.items():
        with tempfile.TemporaryDirectory() as folder:
            into = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
            start = time.perf_counter()
            used = samples([*arguments, *SMALL, f"{into}={folder}/runs", "~hydra.callbacks.compare"])
            seconds = time.perf_counter() - start
            shown, last = opened(Path(folder), runs=100 if "-m" in arguments else 1)
        half, end = used[len(used) // 2], used[-1]
        result.add_row(name, f"{seconds:.0f}", f"{half:.0f}", f"{end:.0f}", f"{shown:.1f}", str(last))
    CONSOLE.print(result)


if __name__ == "__main__":
    main()
