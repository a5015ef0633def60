"""Processes of a run that are killed, told to end, do not come, or have other settings: what is said, and kept."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.processes import SHORT, ended, torchrun, train, trained, wait_for, workers
from tests.helpers.runs import differences, scalars

LONG = [*SHORT, "batch_size=4096", "max_steps=80", "epochs=9"]
in_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="it finds processes in /proc")


def by_hand(number: int, *arguments: object, port: int) -> subprocess.Popen[str]:
    """One of two processes, as a cluster may start it, without torchrun."""
    told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return train(*SHORT, *arguments, **{key: str(value) for key, value in told.items()})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trained(*LONG, f"hydra.run.dir={folder}", start=torchrun(2))
    return folder


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_within_seconds_and_the_run_resumes_bit_for_bit(
    rank: int, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    agent = train(*LONG, f"hydra.run.dir={folder}", start=torchrun(2))
    wait_for(folder / "checkpoint.previous.pt", agent)
    of_run = workers(agent.pid)
    began = time.monotonic()
    os.kill(of_run[rank], signal.SIGKILL)
    _, errors, code = ended(agent)
    assert code != 0
    assert time.monotonic() - began < 20
    assert not [pid for pid in of_run.values() if Path(f"/proc/{pid}").exists()]
    goes_on = "another process of this run ended; what was trained is kept, to go on: python train.py resume="
    assert errors.count(goes_on) == rank, "rank 0 says so, if it is there"
    assert not (folder / "trace.npz").exists()
    output = trained(f"resume={folder}", start=torchrun(2))
    assert re.search("resuming after step [1-9][0-9]* of 80 steps", output)
    assert differences(whole, folder) == []


@pytest.mark.slow
@in_proc
def test_with_max_restarts_and_a_folder_torchrun_resumes_by_itself(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    agent = train(*LONG, f"hydra.run.dir={folder}", start=torchrun(2, "--max-restarts", "1"))
    wait_for(folder / "checkpoint.previous.pt", agent)
    os.kill(workers(agent.pid)[1], signal.SIGKILL)
    output, errors, code = ended(agent)
    assert code == 0, errors
    assert re.search("resuming after step [1-9][0-9]* of 80 steps", output)
    assert differences(whole, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("by_ctrl_c", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_torchrun_that_is_told_to_end_leaves_a_checkpoint_of_the_last_step(
    by_ctrl_c: bool, whole: Path, tmp_path: Path
) -> None:
    """By SIGTERM to it alone, as a cluster does, or by SIGINT to all of its processes, as a terminal does."""
    folder = tmp_path / "run"
    agent = train(*LONG, "checkpoint_every=100000", f"hydra.run.dir={folder}", start=torchrun(2))
    wait_for(folder / "checkpoint.previous.pt", agent)  # the newest is that of the first epoch
    began = time.monotonic()
    if by_ctrl_c:
        os.killpg(agent.pid, signal.SIGINT)
    else:
        agent.terminate()
    _, errors, code = ended(agent)
    assert code != 0
    assert time.monotonic() - began < 20
    assert errors.count("stopped; to go on: python train.py resume=") == 1
    last_step = scalars(folder)["train/loss"][-1][0]
    output = trained(f"resume={folder}", start=torchrun(2))
    assert f"resuming after step {last_step} of 80 steps" in output
    assert differences(whole, folder) == []


@pytest.mark.slow
def test_a_peer_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    port = free_port()
    both = [by_hand(i, f"optimizer.lr=0.{i + 1}", f"hydra.run.dir={tmp_path / 'run'}", port=port) for i in (0, 1)]
    (_, first, code), (_, second, other_code) = map(ended, both)
    assert first == "rank 1 has optimizer.lr=0.2, not 0.1: give every process the same command line\n"
    assert (code, second, other_code) == (2, "", 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_a_run_does_not_depend_on_may_differ_between_peers(tmp_path: Path) -> None:
    port, folder = free_port(), f"hydra.run.dir={tmp_path / 'run'}"
    both = [by_hand(i, f"log_every={i + 1}", folder, port=port) for i in (0, 1)]
    assert [code for _, _, code in map(ended, both)] == [0, 0]


@pytest.mark.slow
def test_a_missing_peer_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    _, errors, code = ended(by_hand(0, "timeout=2", f"hydra.run.dir={tmp_path / 'run'}", port=free_port()))
    assert re.fullmatch(r"2 processes did not meet within timeout=2 seconds \(.*\): start all of them, .*\n", errors)
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
    assert "did not meet" in errors and "a free --master-port" in errors
    assert code == 2
