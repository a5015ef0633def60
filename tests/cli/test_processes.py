"""Several processes, or a batch in parts, train as one; or fail with a line, and what was trained is kept."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import PROJECT, compare_py, small, succeeds, the_line, train_py, trained
from tests.helpers.processes import SHORT, TORCHRUNS, ended, ranks, torchrun, trained_by, wait_for
from tests.helpers.runs import differences, judged, scalars
from xent.recording.capture import GRADIENT, LOSS, UPDATE
from xent.recording.trace import load
from xent.training import checkpoint
from xent.verdict.floor import output_gaps

pytestmark = pytest.mark.slow
IN_PARTS = [("mlp", 1, 2), ("mlp", 2, 1), ("mlp", 4, 2), ("cnn", 2, 2)]
LONG = [*SHORT, "batch_size=4096", "max_steps=80", "epochs=9"]
RESUMES = re.compile("resuming after step [1-9][0-9]* of 80 steps")
NEEDS_PROC = pytest.mark.skipif(not Path("/proc").exists(), reason="it finds processes in /proc")
ANOTHER_ENDED = "another process of this run ended; what was trained is kept, to go on: python train.py resume="


@pytest.mark.parametrize(("model", "processes", "accumulate"), IN_PARTS)
def test_processes_and_microbatches_train_as_one(model: str, processes: int, accumulate: int, tmp_path: Path) -> None:
    """With targets ignored and classes weighted, 13 images a process and 6 a microbatch."""
    # Groups of eight channels: one by itself would be normalised to 0, but for rounding.
    settings = [f"model={model}", f"model.width={64 if model == 'mlp' else 8}", "model.norm=group", "max_steps=16"]
    settings += ["batch_size=26", "+loss.ignore_index=9", "+loss.weight=[1,2,3,1,2,3,1,2,3,4]", "log_every=8"]
    settings += ["where=1", "precision=float64"]
    whole = trained(tmp_path / "whole", *settings)
    trained_by(processes, *settings, f"accumulate={accumulate}", f"hydra.run.dir={tmp_path / 'parts'}")
    parts = load(tmp_path / "parts")
    assert (parts.settings["processes"], parts.settings["accumulate"]) == (processes, accumulate)
    assert max(output_gaps(parts, whole).values()) < 1e-13
    torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-12, atol=0)
    assert parts.tests.keys() == whole.tests.keys()
    of_both = [key for key in parts.captures[1] if key.kind in (LOSS, GRADIENT, UPDATE)]
    assert of_both == [key for key in whole.captures[1] if key.kind in (LOSS, GRADIENT, UPDATE)]
    for key in of_both:
        torch.testing.assert_close(*(trace.captures[1][key].sketch for trace in (parts, whole)), rtol=1e-9, atol=1e-12)
    assert parts.fingerprints == {name: pytest.approx(whole.fingerprints[name]) for name in whole.fingerprints}


def test_the_mean_of_means_is_found_out_by_two_processes(tmp_path: Path) -> None:
    """By three commands: the reference and its nudges, the same by several processes, and the comparison."""
    settings = [*small(precision="float64", max_steps=16), "loss=impostor/mean_of_means", "+loss.ignore_index=9"]
    floor = ["-m", "nudge=0,1,2", "hydra.callbacks.compare.by=null", f"hydra.sweep.dir={tmp_path / 'one'}"]
    assert train_py(*floor, *settings).returncode == 0
    trained_by(2, *settings, f"hydra.run.dir={tmp_path / 'two'}")
    by = ["--by", "processes", "--reference", "1", "--output", tmp_path / "comparison"]
    assert compare_py(tmp_path / "one", tmp_path / "two", *by).returncode == 1
    ((name, figures),) = judged(tmp_path / "comparison").items()
    assert (name, figures["verdict"], figures["decades above floor"] > 10) == ("2", "different", True)


def test_the_mean_of_means_is_found_out_by_accumulating(tmp_path: Path) -> None:
    smaller = small(precision="float64", max_steps=16)
    assert train_py("-m", "+experiment=processes", *smaller, f"hydra.sweep.dir={tmp_path}").returncode == 0
    verdicts = {name: figures["verdict"] for name, figures in judged(tmp_path / "comparison").items()}
    assert [verdicts.pop(f"{parts}, torch") for parts in (2, 4)] == ["same within rounding"] * 2
    assert verdicts == {f"{parts}, impostor/mean_of_means": "different" for parts in (2, 4)}


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_batch_normalisation_of_microbatches_is_said_to_be_another_training(model: str, tmp_path: Path) -> None:
    result = train_py(*small(model=model, max_steps=2), "accumulate=2", f"hydra.run.dir={tmp_path}")
    assert result.returncode == 0
    said = "batch normalisation takes its statistics of each of 2 parts of a batch, so this is another training"
    assert result.stderr.startswith(said) == (model == "cnn")


def test_a_run_may_resume_with_another_number_of_processes_which_is_noted(tmp_path: Path) -> None:
    longer = [*SHORT, "max_steps=null", "batch_size=20000", "epochs=1"]
    trained_by(2, *longer, f"hydra.run.dir={tmp_path}")
    resumed = succeeds(f"resume={tmp_path}", "epochs=2", "accumulate=2")
    what = "loss=torch model=mlp data=mnist device=cpu, with"
    assert resumed.startswith(f"{what} epochs=1, accumulate=1, processes=2 before: resuming after step 3 of 6 steps\n")
    trained_by(2, f"resume={tmp_path}", "epochs=3", "accumulate=2")
    trace = load(tmp_path)
    assert (trace.step, trace.settings["processes"], trace.settings["accumulate"]) == (9, 2, 2)
    first, second = trace.settings["before"]
    assert first | {"epochs": 1, "processes": 2, "accumulate": 1} == first
    assert second | {"epochs": 2, "processes": 1} == second and "accumulate" not in second


def test_a_loss_that_is_no_number_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    """It is looked at when a step is logged; no checkpoint in between has its weights."""
    command = [*SHORT, "optimizer.lr=1e30", "log_every=10", f"hydra.run.dir={tmp_path}"]
    first, second = (rank.result() for rank in ranks(command, command))
    assert (first.returncode, second.stderr) == (1, "")
    assert first.stderr.count("the loss is nan at step 2") == 1
    assert first.stderr.count("what was trained is kept, to go on: python train.py resume=") == 1
    saved = checkpoint.load(tmp_path)
    assert saved is not None and len(saved["recorder"]["losses"]) == 0
    started = "loss=torch model=mlp data=mnist device=cpu, with processes=2 before: training for 20 steps"
    assert train_py(f"resume={tmp_path}").stdout.startswith(started)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs, one for each process")
def test_processes_on_gpus(tmp_path: Path) -> None:
    settings = ["model=cnn", "device=cuda", "precision=float64", "max_steps=20"]
    for processes in (1, 2):
        trained_by(processes, *settings, f"hydra.run.dir={tmp_path / str(processes)}")
    one, two = (load(tmp_path / str(processes)) for processes in (1, 2))
    assert max(output_gaps(two, one).values()) < 1e-12  # batch normalisation is synchronised


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happens to. Of all, whatever the date names, the folder is that of rank 0."""
    parent = tmp_path_factory.mktemp("whole")
    output, errors, code = ended(torchrun(*LONG, f"hydra.run.dir={parent}/${{now:%H%M%S.%f}}"))
    assert (code, errors) == (0, "")
    (folder,) = parent.iterdir()
    begun, result, where = output.splitlines()
    assert begun == "loss=torch model=mlp data=mnist device=cpu: training for 80 steps"
    assert re.fullmatch(r"test loss \d\.\d{4}, accuracy \d\d?\.\d\d%, after 80 steps in \d+\.\d s", result)
    assert where == os.path.relpath(folder, PROJECT)
    return folder


def test_torchrun_is_quiet_and_one_run(whole: Path) -> None:
    assert len(list(whole.glob("events*"))) == 1
    trace = load(whole)
    assert (trace.settings["processes"], trace.settings["machine.threads"]) == (2, 1)
    assert trained_by(2, f"resume={whole}") == f"{os.path.relpath(whole)} is finished, after 80 steps\n"


@pytest.mark.parametrize("killed", [0, 1])
def test_if_a_rank_is_killed_the_other_ends_and_the_run_resumes(killed: int, whole: Path, tmp_path: Path) -> None:
    command = [*LONG, f"hydra.run.dir={tmp_path}"]
    both = ranks(command, [*command, "log_every=2"])  # on which a run does not depend: peers may differ in it
    wait_for(tmp_path / "checkpoint.previous.pt", both[0])
    both[killed].process.kill()
    other = both[1 - killed].result(timeout=20)
    assert (other.returncode, other.stderr.count(ANOTHER_ENDED)) == (1, killed), "rank 0 says so"
    assert not (tmp_path / "trace.npz").exists()
    assert RESUMES.search(trained_by(2, f"resume={tmp_path}"))
    assert differences(whole, tmp_path) == []


@pytest.mark.parametrize("by", [pytest.param("max_restarts and SIGTERM", marks=NEEDS_PROC), "Ctrl-C"])
def test_torchrun_resumes_by_itself_and_at_its_end_saves_the_last_step(by: str, whole: Path, tmp_path: Path) -> None:
    restarts = 0 if by == "Ctrl-C" else 1
    agent = torchrun(*LONG, "checkpoint_every=100000", f"hydra.run.dir={tmp_path}", restarts=restarts)
    previous = tmp_path / "checkpoint.previous.pt"
    wait_for(previous, agent)  # the newest is that of the first epoch
    if by == "Ctrl-C":
        os.killpg(agent.pid, signal.SIGINT)  # all of its processes, as a terminal does
    else:
        listed = subprocess.run(["pgrep", "--parent", str(agent.pid)], capture_output=True, text=True, check=True)
        pids = listed.stdout.split()  # by rank
        assert len(pids) == 2
        first = previous.stat().st_ino
        os.kill(int(pids[1]), signal.SIGKILL)
        while agent.poll() is None and previous.stat().st_ino == first:  # until an epoch after the restart
            time.sleep(0.01)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        agent.terminate()  # torchrun alone, as a cluster does
    output, errors, code = ended(agent, timeout=20)
    assert code != 0
    assert bool(RESUMES.search(output)) == restarts
    assert errors.count(ANOTHER_ENDED) == restarts
    assert errors.count("stopped; to go on: python train.py resume=") == 1
    last_step = scalars(tmp_path)["train/loss"][-1][0]
    assert f"resuming after step {last_step} of 80 steps" in trained_by(2, f"resume={tmp_path}")
    assert differences(whole, tmp_path) == []


REFUSED = {
    "accumulate=33": "batch_size=64: expected at least 66, processes times accumulate, "
    "and with compile=true a multiple",
    "-m seed=0,1": "torchrun with -m: expected a single run; a sweep trains each of its runs in one process",
    "loss=custom loss._target_=tests.training.test_checkpoint.Dropout": "the loss has weights of its own, "
    "which one process alone can train: leave torchrun out",
    "seed=${oc.env:RANK}": "rank 1 has seed=1, not 0: give every process the same command line",
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.items())
def test_what_several_processes_cannot_train_is_refused_once(arguments: str, said: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*arguments.split(), *SHORT, f"hydra.run.dir={run}"]
    sweeps = [tmp_path / "first", tmp_path / "second"]  # the time is in their names, so two ranks seldom share one
    first, second = (rank.result() for rank in ranks(*([*command, f"hydra.sweep.dir={sweep}"] for sweep in sweeps)))
    assert the_line(first) == said
    assert (second.returncode, second.stderr) == (2, "")
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    "wrong",
    [
        *({"RANK": rank} for rank in ("0", "", "x", "-1")),
        *(
            TORCHRUNS | {name: value}
            for name in TORCHRUNS
            for value in ("", "x y")
            if name != "MASTER_ADDR" or not value
        ),
        TORCHRUNS | {"RANK": "1"},
        TORCHRUNS | {"MASTER_PORT": "70000"},
        TORCHRUNS | {"LOCAL_RANK": ""},
        TORCHRUNS | {"LOCAL_WORLD_SIZE": "two"},
    ],
    ids=str,
)
def test_a_part_of_torchruns_environment_is_refused_in_a_line(
    wrong: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    line = the_line(train_py(*small(), f"hydra.run.dir={tmp_path / 'run'}"))
    assert line.startswith("the environment has RANK=") and line.endswith("or unset RANK for a single one")
    assert not (tmp_path / "run").exists()


def test_without_rank_what_else_is_left_in_the_environment_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "")
    assert trained(tmp_path, *small()).settings["processes"] == 1
