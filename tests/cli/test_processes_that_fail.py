"""Processes of a run that are killed, told to end, do not come, or have other settings: what is said, and kept."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.commands import PROJECT, the_line
from tests.helpers.processes import SHORT, ranks, torchrun, trained_by, wait_for
from tests.helpers.runs import differences, scalars
from xent.recording.trace import load

pytestmark = pytest.mark.slow
LONG = [*SHORT, "batch_size=4096", "max_steps=80", "epochs=9"]
RESUMES = re.compile("resuming after step [1-9][0-9]* of 80 steps")
ANOTHER_ENDED = "another process of this run ended; what was trained is kept, to go on: python train.py resume="


def ended(process: subprocess.Popen[str], timeout: float = 300) -> tuple[str, str, int]:
    output, errors = process.communicate(timeout=timeout)
    return output, errors, process.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes that nothing happens to, by torchrun, which is quiet and one run.

    The folder of rank 0 is that of all, whatever the date names; each line is printed once.
    """
    parent = tmp_path_factory.mktemp("whole")
    output, errors, code = ended(torchrun(*LONG, "hydra.run.dir=" + f"{parent}/${{now:%H%M%S.%f}}"))
    assert (code, errors) == (0, "")
    (folder,) = parent.iterdir()
    begun, result, where = output.splitlines()
    assert begun == "loss=torch model=mlp data=mnist device=cpu: training for 80 steps"
    assert "after 80 steps" in result
    assert where == os.path.relpath(folder, PROJECT)
    return folder


def test_torchrun_is_quiet_and_one_run(whole: Path) -> None:
    assert len(list(whole.glob("events*"))) == 1
    trace = load(whole)
    assert (trace.settings["processes"], trace.settings["machine.threads"]) == (2, 1)
    assert trained_by(2, f"resume={whole}") == f"{os.path.relpath(whole)} is finished, after 80 steps\n"


@pytest.mark.parametrize("killed", [0, 1])
def test_if_a_rank_is_killed_the_other_ends_and_the_run_resumes_bit_for_bit(
    killed: int, whole: Path, tmp_path: Path
) -> None:
    command = [*LONG, f"hydra.run.dir={tmp_path}"]
    both = ranks(command, command)
    wait_for(tmp_path / "checkpoint.previous.pt", both[0])
    both[killed].process.kill()
    other = both[1 - killed].result(timeout=20)
    assert (other.returncode, other.stderr.count(ANOTHER_ENDED)) == (1, killed), "rank 0 says so"
    assert not (tmp_path / "trace.npz").exists()
    assert RESUMES.search(trained_by(2, f"resume={tmp_path}"))
    assert differences(whole, tmp_path) == []


@pytest.mark.skipif(not Path("/proc").exists(), reason="it finds processes in /proc")
def test_with_max_restarts_torchrun_resumes_by_itself_and_at_sigterm_saves_the_last_step(
    whole: Path, tmp_path: Path
) -> None:
    agent = torchrun(*LONG, "checkpoint_every=100000", f"hydra.run.dir={tmp_path}", restarts=1)
    wait_for(tmp_path / "checkpoint.previous.pt", agent)  # the newest is that of the first epoch
    listed = subprocess.run(["pgrep", "--parent", str(agent.pid)], capture_output=True, text=True, check=True).stdout
    pids = [int(pid) for pid in listed.split()]  # by rank
    assert len(pids) == 2
    previous = tmp_path / "checkpoint.previous.pt"
    first = previous.stat().st_ino
    os.kill(pids[1], signal.SIGKILL)
    while agent.poll() is None and previous.stat().st_ino == first:  # until an epoch after the restart
        time.sleep(0.01)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    agent.terminate()  # torchrun alone, as a cluster does
    output, errors, code = ended(agent, timeout=20)
    assert code != 0
    assert RESUMES.search(output)
    assert errors.count(ANOTHER_ENDED) == 1
    assert_resumes_from_the_last_step(errors, tmp_path, whole)


def test_at_ctrl_c_torchrun_saves_the_last_step(whole: Path, tmp_path: Path) -> None:
    agent = torchrun(*LONG, "checkpoint_every=100000", f"hydra.run.dir={tmp_path}")
    wait_for(tmp_path / "checkpoint.previous.pt", agent)
    os.killpg(agent.pid, signal.SIGINT)  # all of its processes, as a terminal does
    _, errors, code = ended(agent, timeout=20)
    assert code != 0
    assert_resumes_from_the_last_step(errors, tmp_path, whole)


def assert_resumes_from_the_last_step(errors: str, folder: Path, whole: Path) -> None:
    assert errors.count("stopped; to go on: python train.py resume=") == 1
    last_step = scalars(folder)["train/loss"][-1][0]
    assert f"resuming after step {last_step} of 80 steps" in trained_by(2, f"resume={folder}")
    assert differences(whole, folder) == []


def test_a_peer_with_other_settings_is_refused_by_name_unless_a_run_does_not_depend_on_them(tmp_path: Path) -> None:
    command = [*SHORT, f"hydra.run.dir={tmp_path / 'run'}"]
    first, second = (rank.result() for rank in ranks([*command, "optimizer.lr=0.1"], [*command, "optimizer.lr=0.2"]))
    assert the_line(first) == "rank 1 has optimizer.lr=0.2, not 0.1: give every process the same command line"
    assert (second.returncode, second.stderr) == (2, "")
    assert not (tmp_path / "run").exists()
    both = ranks([*command, "log_every=1"], [*command, "log_every=2"])
    assert [rank.result().returncode for rank in both] == [0, 0]


def test_a_missing_peer_is_waited_for_no_longer_than_asked_and_a_port_in_use_is_said(tmp_path: Path) -> None:
    command = [*SHORT, "timeout=2", f"hydra.run.dir={tmp_path / 'run'}"]
    (first,) = ranks(command, size=2)
    said = the_line(first.result())
    assert re.fullmatch(r"2 processes did not meet within timeout=2 seconds \(.*\): start all of them, .*", said)
    with socket.create_server(("", 0)) as taken:
        (first,) = ranks(command, size=2, port=taken.getsockname()[1])
        said = the_line(first.result())
    assert "did not meet" in said and "a free --master-port" in said
    assert not (tmp_path / "run").exists()
