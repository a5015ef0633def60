"""Trainings in processes of their own. To fork one that has PyTorch and MNIST is ten times cheaper than `torchrun`."""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess

import torch

from tests.helpers.commands import PROJECT, train_py
from xent.training import datasets

SHORT = ["model=mlp", "model.width=16", "max_steps=20", "batch_size=64", "checkpoint_every=2", "log_every=1"]
TORCHRUNS = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}  # its environment
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload([__name__])
datasets.read("MNIST", PROJECT / "data")


class Forked:
    def __init__(self, *arguments: str, **variables: str) -> None:
        self._results, results = FORKSERVER.Pipe(duplex=False)
        self.process = FORKSERVER.Process(target=_train, args=(results, variables, arguments))
        self.process.start()
        results.close()  # so that the pipe ends with the process

    def poll(self) -> int | None:
        return self.process.exitcode

    def result(self, timeout: float = 300) -> CompletedProcess[str]:
        """What the process printed, and its exit code, when it has ended by itself."""
        assert self._results.poll(timeout), "the process does not end"
        result: CompletedProcess[str] = self._results.recv()
        self.process.join()
        return result


def _train(results: Connection, variables: dict[str, str], arguments: list[str]) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)  # as torchrun does
    with tempfile.TemporaryFile() as errors:
        os.dup2(errors.fileno(), 2)  # where PyTorch's C++ code writes
        result = train_py(*arguments)
        errors.seek(0)
        result.stderr += errors.read().decode()
    results.send(result)


def outputs(processes: Sequence[Forked]) -> list[str]:
    """What processes print that come to their end, and warn of nothing."""
    results = [process.result() for process in processes]
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * len(results)
    return [result.stdout for result in results]


def ranks(*commands: list[str], size: int | None = None, port: int | None = None) -> list[Forked]:
    """Start the ranks of a run as a cluster may, each with its command; of a larger `size`, the first ones alone."""
    with socket.create_server(("localhost", 0)) as listener:
        free_port = listener.getsockname()[1]
    common = {"WORLD_SIZE": str(size or len(commands)), "LOCAL_WORLD_SIZE": str(len(commands))}
    common |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port or free_port)}
    return [Forked(*command, **common, RANK=str(i), LOCAL_RANK=str(i)) for i, command in enumerate(commands)]


def trained_by(processes: int, *arguments: str) -> str:
    """The output of a training that several processes brought to its end; ranks other than 0 print nothing."""
    first, *others = outputs(ranks(*[[*arguments]] * processes))
    assert not any(others)
    return first


def started(*arguments: str, threads: int = 1) -> subprocess.Popen[str]:
    """Start a command of the project, so that a signal may be sent to all of its processes, as a terminal does."""
    words, env = (sys.executable, *arguments), os.environ | {"OMP_NUM_THREADS": str(threads)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=PROJECT, env=env, **pipes, text=True, start_new_session=True)


def torchrun(*arguments: str, restarts: int = 0) -> subprocess.Popen[str]:
    """Start `train.py` by torchrun, as two processes of one run."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    return started(*launcher, "train.py", *arguments)


def ended(process: subprocess.Popen[str], timeout: float = 300) -> tuple[str, str, int]:
    output, errors = process.communicate(timeout=timeout)
    return output, errors, process.returncode


def wait_for(path: Path, process: subprocess.Popen[str] | Forked) -> None:
    """Wait until a path exists, or the process has ended."""
    while process.poll() is None and not path.exists():
        time.sleep(0.01)
