"""Processes of a run that are killed, told to end, do not come, or bring other settings: what is said, and kept."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.processes import SHORT, TORCHRUN, ended, train, wait_for, workers
from tests.helpers.runs import differences


def by_hand(number: int, *arguments: object, port: int) -> subprocess.Popen[str]:
    """One of two processes, as a cluster may start it, without torchrun."""
    told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return train(*SHORT, *arguments, **{key: str(value) for key, value in told.items()})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="it finds processes in /proc")
def test_a_killed_process_ends_all_and_torchrun_goes_on_by_itself(tmp_path: Path) -> None:
    ended(
        train(
            *SHORT, "batch_size=4096", "max_steps=80", "epochs=9", "processes=2", f"hydra.run.dir={tmp_path / 'whole'}"
        )
    )
    folder = tmp_path / "killed"
    begin = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    agent = train(*SHORT, "batch_size=4096", "max_steps=80", "epochs=9", f"hydra.run.dir={folder}", begin=begin)
    wait_for(folder / "checkpoint.previous.pt", agent)
    os.kill(workers(agent)["1"], signal.SIGKILL)
    output, errors, code = ended(agent)
    assert code == 0, errors
    assert (
        errors.count("another process of this run ended; what was trained is kept, to go on: python train.py resume=")
        == 1
    )
    assert "Traceback" not in errors
    assert re.search("going on after step [1-9][0-9]* of 80 steps", output)
    assert not differences(tmp_path / "whole", folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="it finds processes in /proc")
def test_torchrun_that_is_told_to_end_leaves_a_checkpoint(tmp_path: Path) -> None:
    begin = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"]
    agent = train(
        *SHORT, "batch_size=4096", "max_steps=400", "epochs=99", f"hydra.run.dir={tmp_path / 'run'}", begin=begin
    )
    wait_for(tmp_path / "run" / "checkpoint.previous.pt", agent)
    began = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    _, errors, code = ended(agent)
    assert code != 0
    assert errors.count("stopped; to go on: python train.py resume=") == 1
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_a_peer_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    port = free_port()
    both = [by_hand(i, f"optimizer.lr=0.{i + 1}", f"hydra.run.dir={tmp_path / 'run'}", port=port) for i in (0, 1)]
    (_, first, code), (_, second, _) = map(ended, both)
    assert first == "process 1 has optimizer.lr=0.2, not 0.1: give every process the same command line\n"
    assert (code, second) == (2, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_missing_peer_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    _, errors, code = ended(by_hand(0, "timeout=2", f"hydra.run.dir={tmp_path / 'run'}", port=free_port()))
    assert re.fullmatch(
        r"2 processes did not come together within timeout=2 seconds \(.*\): start all of them, .*\n", errors
    )
    assert code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _, errors, code = ended(by_hand(0, "timeout=2", f"hydra.run.dir={tmp_path / 'run'}", port=port))
    assert len(errors.splitlines()) == 1
    assert "did not come together" in errors and "a free --master-port" in errors
    assert code == 2
