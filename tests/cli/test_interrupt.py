"""What stops a run or a sweep, or should have: a signal, a kill, a loss that is no number, too little memory."""

import os
import random
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.cli.test_events import curves, reader_of
from tests.helpers.commands import PROJECT, compare_py, small, succeeds, the_line, train_py
from tests.helpers.processes import TORCHRUNS, Forked, ended, outputs, ranks, started, wait_for
from tests.helpers.runs import differences, judged
from xent.cli.accompany import _interrupted_between_steps as interrupted_between_steps

IS_KEPT = "what was trained is kept, to go on:"


def test_ctrl_c_waits_for_the_end_of_a_step_and_a_second_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupted_between_steps() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)  # raises nothing
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

    def train() -> tuple[object, bool]:
        with interrupted_between_steps() as asked:
            return signal.getsignal(signal.SIGINT), asked()

    with ThreadPoolExecutor(1) as thread:  # which gets no signals
        assert thread.submit(train).result() == (before, False), "nothing is held back"


def test_of_torchruns_processes_rank_0_alone_is_interrupted_by_either_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for name, value in TORCHRUNS.items():
        monkeypatch.setenv(name, value)
    for number in (signal.SIGINT, signal.SIGTERM):
        for rank in (0, 1):
            monkeypatch.setattr("xent.cli.accompany.rank", lambda rank=rank: rank)
            with interrupted_between_steps() as asked:
                signal.raise_signal(number)
                assert asked() == (rank == 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_leaves_a_run_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    process = started("train.py", "epochs=100", "model=mlp", "log_every=5", f"hydra.run.dir={folder}")
    while process.poll() is None and not any(folder.glob("events*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors, code = ended(process, timeout=60)
    resume = f"python train.py resume={os.path.relpath(folder, PROJECT)}"
    assert (code, errors) == (130, f"stopped; to go on: {resume}\n")
    monkeypatch.chdir(PROJECT)
    assert the_line(compare_py(folder)) == f"{folder} is not finished: go on with it, {resume}"


@pytest.mark.parametrize("seconds", [0.0, 0.03])
def test_a_second_ctrl_c_leaves_one_line_or_none(seconds: float, tmp_path: Path) -> None:
    """None where the first came before training, and none of the interpreter's end."""
    process = started("train.py", "epochs=100", "model=mlp", "log_every=5", f"hydra.run.dir={tmp_path / 'run'}")
    while process.poll() is None and not any(tmp_path.glob("run/events*")):
        time.sleep(0.1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(seconds)
    _, errors, code = ended(process, timeout=60)
    assert (code, errors.count("\n")) == (130, 1) and errors.startswith("stopped; to go on: ")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has loaded is Linux's to say")
def test_ctrl_c_during_the_imports_leaves_nothing(tmp_path: Path) -> None:
    process = started("train.py", f"hydra.run.dir={tmp_path / 'run'}")
    while "libtorch_cpu" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors, code = ended(process, timeout=60)
    assert (code, errors, (tmp_path / "run").exists()) == (-signal.SIGINT, "", False)


def interrupted(logits: Tensor, target: Tensor) -> Tensor:
    """A loss at which Ctrl-C is pressed while a run trains, not while the loss is tried."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.raise_signal(signal.SIGINT)
    return cross_entropy(logits, target)


def test_ctrl_c_ends_a_sweep_with_one_line(tmp_path: Path) -> None:
    loss = ["loss=custom", f"loss._target_={__name__}.interrupted"]
    line = the_line(train_py("-m", *loss, *small(nudge="0,1"), f"hydra.sweep.dir={tmp_path}"), tmp_path, code=130)
    typed = " ".join(["-m", *loss, *small(nudge="0,1")])
    assert line == f"stopped; to go on: python train.py -m hydra.sweep.dir=RUN {typed.removeprefix('-m ')}"
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 1


def test_a_loss_that_is_no_number_stops_a_run_which_may_go_on_if_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverges = [*small(log_every=1, checkpoint_every=4), "optimizer.lr=1e30"]
    line = the_line(train_py(*diverges, f"hydra.run.dir={tmp_path}"), tmp_path, code=1)
    assert line.startswith("the loss is nan at step 2: learning rate ")
    advice = "the batch is in RUN/nonfinite.pt; train with a smaller optimizer.lr, or add on_nonfinite=continue"
    assert line.endswith(f"; {advice}; {IS_KEPT} python train.py resume=RUN")
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=True)
    assert (saved["step"], saved["images"].shape, saved["target"].shape) == (2, (128, 1, 28, 28), (128,))
    assert not saved["loss"].isfinite()
    monkeypatch.setenv("PATH", "")  # no environment is active
    again = train_py(f"resume={tmp_path}").stderr
    assert again.endswith(f"{IS_KEPT} {os.path.relpath(sys.executable)} train.py resume={os.path.relpath(tmp_path)}\n")
    succeeds(f"resume={tmp_path}", "on_nonfinite=continue")


def test_a_sweep_with_a_loss_that_is_no_number_is_finished_where_it_stopped(tmp_path: Path) -> None:
    """What changes no run, as on_nonfinite, is not in the names of their folders."""
    sweep = ["-m", "loss=torch", "optimizer.lr=0.05,1e30", *small(nudge="0,1"), f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert train_py(*sweep).stderr.count("or add on_nonfinite=continue") == 2
    by_lr = ["hydra.callbacks.compare.by=optimizer.lr", "hydra.callbacks.compare.reference=0.05"]
    output = succeeds(*sweep, *by_lr, "on_nonfinite=continue")
    assert "4 runs of " in output and ", 2 of them finished\n" in output and "No: optimizer.lr=" in output
    assert len(list((tmp_path / "sweep").glob("*/trace.npz"))) == 4


def test_too_little_memory_stops_a_run(tmp_path: Path) -> None:
    custom = ["loss=custom", "loss._target_=tests.helpers.faulty_losses.OutOfMemory"]
    line = the_line(train_py(*small(), *custom, f"hydra.run.dir={tmp_path}"), tmp_path, code=1)
    advice = "a batch does not fit into memory: give accumulate=2, or more"
    assert line == f"{advice}; {IS_KEPT} python train.py resume=RUN {custom[1]}"


def test_a_run_that_learns_nothing_says_so(tmp_path: Path) -> None:
    slow = small(batch_size=2000, max_steps=30)
    line = the_line(train_py(*slow, "optimizer.lr=1e-30", f"hydra.run.dir={tmp_path}"), code=0)
    assert line == "the loss did not fall in 30 steps: this training learns nothing"


JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SWEEP = ["-m", "loss=torch,scratch", *small(max_steps=150, checkpoint_every=10, nudge="0,1", precision="float64")]
THREADS = torch.get_num_threads()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep, one run after the other. To be read only."""
    folder = tmp_path_factory.mktemp("sweeps") / "serial"
    assert train_py(*SWEEP, f"hydra.sweep.dir={folder}").returncode == 0
    return folder


def assert_same(sweep: Path, serial: Path) -> None:
    runs = [path.name for path in serial.glob("loss=*")]
    assert len(runs) == 4
    assert [differences(serial / name, sweep / name) for name in runs] == [[]] * 4
    assert judged(serial / "comparison") == judged(sweep / "comparison")


@pytest.mark.extra
def test_ctrl_c_ends_a_sweep_of_joblibs_and_the_same_command_finishes_it(serial: Path, tmp_path: Path) -> None:
    """Its runs do not disturb each other."""
    sweep = tmp_path / "sweep"
    command = ["train.py", *SWEEP, f"hydra.sweep.dir={sweep}", *JOBLIB]
    process = started(*command, threads=THREADS)
    while process.poll() is None and not any(sweep.glob("*/checkpoint.previous.pt")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors, code = ended(process, timeout=60)
    assert code == 130
    there = f"hydra.sweep.dir={os.path.relpath(sweep, PROJECT)}"
    assert errors == f"stopped; to go on: {' '.join(['python train.py -m', there, *SWEEP[1:], *JOBLIB])}\n"
    finished = list(sweep.glob("*/trace.npz"))
    assert len(finished) < 4

    output, errors, code = ended(started(*command, threads=THREADS))
    assert (code, errors) == (0, "")
    assert output.startswith("4 runs of model=mlp data=mnist device=cpu in ")
    assert f", {len(finished)} of them finished\n" in output or not finished
    results = re.findall(r"^loss=(\w+): 2 runs, test loss ", output, re.MULTILINE)
    done = [sum(f"loss={loss}" in str(file) for file in finished) == 2 for loss in ("torch", "scratch")]
    assert {*results} == {loss for loss, before in zip(("torch", "scratch"), done) if not before}
    assert f"\npython train.py {' '.join([*SWEEP, *JOBLIB])}\n" in (sweep / "comparison" / "report.md").read_text()
    assert_same(sweep, serial)


@pytest.mark.extra
def test_a_sweep_of_submitits_is_that_of_one_process(serial: Path, tmp_path: Path) -> None:
    command = ["train.py", *SWEEP, f"hydra.sweep.dir={tmp_path}", "hydra/launcher=submitit_local"]
    assert ended(started(*command, threads=THREADS))[1:] == ("", 0)
    assert_same(tmp_path, serial)


def test_a_killed_process_ends_a_sweep_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.Parallel.__call__", Mock(side_effect=TerminatedWorkerError))
    line = the_line(train_py("-m", "seed=0,1", *small(), f"hydra.sweep.dir={tmp_path}", *JOBLIB), code=1)
    assert line.startswith("a training process was killed, perhaps for lack of memory; to go on: python train.py -m ")


# Checkpoints, events and evaluations take most of the time, so that most kills fall into one of them.
SETTINGS = ["batch_size=512", "max_steps=30", "test_every=10", "log_every=1", "checkpoint_every=2"]
CNN = ["model=cnn", "model.width=4", "model.norm=group", "timeout=30"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kill" in metafunc.fixturenames:
        metafunc.parametrize("kill", range(metafunc.config.getoption("kills")))


def begin(kind: str, folder: Path) -> list[Forked]:
    """Start a run, or a sweep, in a folder, and return its processes."""
    if kind == "a sweep":
        return [Forked("-m", "loss=torch,scratch", f"hydra.sweep.dir={folder}", "model=mlp", *SETTINGS)]
    command = [*CNN, *SETTINGS, f"hydra.run.dir={folder}"]
    return ranks(command, command) if kind == "a run of two processes" else [Forked(*command)]


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, float]:
    """What is trained, its folder, and the seconds that it takes once the folder is there."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    processes = begin(request.param, folder)
    wait_for(folder, processes[0])
    began = time.monotonic()
    outputs(processes)
    return request.param, folder, time.monotonic() - began


@pytest.mark.parametrize(
    "whole", ["a run", "a sweep", pytest.param("a run of two processes", marks=pytest.mark.extra)], indirect=True
)
def test_killed_at_a_random_moment(whole: tuple[str, Path, float], kill: int, tmp_path: Path) -> None:
    """It goes on bit for bit, and who reads its events sees in the end what a new reader sees."""
    kind, expected, seconds = whole
    folder = tmp_path / "run"
    processes = begin(kind, folder)
    wait_for(folder, processes[0])
    time.sleep(random.uniform(0, seconds))
    random.choice(processes).process.kill()
    for process in processes:
        process.process.join()  # the other rank ends by itself
    readers = {file.parent: reader_of(file.parent).Reload() for file in folder.rglob("events*")}

    outputs(begin(kind, folder))
    for run, reader in readers.items():
        assert curves(reader) == curves(reader_of(run))
    runs, expected_runs = (sorted(file.parent for file in at.rglob("trace.npz")) for at in (folder, expected))
    for run, expected_run in zip(runs, expected_runs, strict=True):
        assert differences(run, expected_run) == []
    if kind == "a sweep":
        assert judged(folder / "comparison") == judged(expected / "comparison")
