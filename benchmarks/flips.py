"""Every bit of a small checkpoint and of a small trace, flipped one at a time: python -m benchmarks.flips [every=1]

A damaged file is refused, or gives what the whole one gives: nothing resumes from other numbers, or is judged by them.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import arguments
from xent.recording import BadInput, Recorder
from xent.recording.trace import FILE, load, save
from xent.report.page import markdown_table
from xent.training import checkpoint
from xent.training.loop import Training

Read = Callable[[Path], object]


def train(folder: Path) -> None:
    """Leave a checkpoint and a trace of two steps in a folder."""
    torch.manual_seed(0)
    model, x = nn.Linear(2, 3).double(), torch.randn(4, 2, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = Recorder(folder, steps=2, settings={"seed": 0, "precision": "float64"}, nudge=0, where=1)
    recorder.nudge(model)
    for _ in range(2):
        loss = model(recorder.reorder(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, probe=lambda: model(x))
    recorder.finish()
    checkpoint.save(folder, Training(model, nn.CrossEntropyLoss(), optimizer, recorder, batch_size=4, seed=0), [])


def trace_of(folder: Path) -> bytes:
    """What is read of a trace, written anew."""
    with tempfile.TemporaryDirectory() as again:
        save(load(folder), Path(again))
        return (Path(again) / FILE).read_bytes()


def counts(file: Path, read: Read, every: int) -> Counter[str]:
    """How many flips of one bit, of every so many, are refused, read as the whole file is, or as something else."""
    content, whole = bytearray(file.read_bytes()), repr(read(file.parent))
    outcomes: Counter[str] = Counter()
    for bit in range(0, 8 * len(content), every):
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        try:
            outcomes["the same" if repr(read(file.parent)) == whole else "OTHER"] += 1
        except BadInput:
            outcomes["refused"] += 1
        content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return outcomes


def main() -> None:
    (every,) = arguments(every="1")
    rows = [["file", "flips", "refused", "the same", "OTHER"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder)
        for file, read in {FILE: trace_of, checkpoint.FILE: checkpoint.load}.items():
            found = counts(folder / file, read, int(every))
            rows.append([file, f"{found.total():,}", *(f"{found[outcome]:,}" for outcome in rows[0][2:])])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
