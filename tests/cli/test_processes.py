"""Runs of several processes, real ones with gloo, are the training of one, and say so."""

import os
import re
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import PROJECT
from tests.helpers.processes import SHORT, TORCHRUN, ended, train
from xent.recording import trace_file
from xent.runs import checkpoint
from xent.runs.traces import load_runs
from xent.verdict.floor import output_gaps


@pytest.mark.slow
def test_a_sweep_over_processes_and_parts_is_one_training(tmp_path: Path) -> None:
    """With targets ignored and classes weighted, 13 images a process and 6 a part; and the verdict says so."""
    settings = [
        "model=mlp,cnn",
        "model.width=8",
        "model.norm=group",
        "precision=float64",
        "max_steps=32",
        "batch_size=26",
    ]
    counting = ["+loss.ignore_index=9", "+loss.weight=[1,2,3,1,2,3,1,2,3,4]", "log_every=8"]
    output, errors, code = ended(
        train("-m", *settings, *counting, "processes=1,2,4", "accumulate=1,2", "hydra.callbacks.compare.by=null",
              f"hydra.sweep.dir={tmp_path}")
    )  # fmt: skip
    assert code == 0, errors
    assert "12 of 12" in output
    traces = load_runs([tmp_path])
    for model in ("mlp", "cnn"):
        plain, *others = sorted(
            (trace for trace in traces if trace.settings["model"] == model),
            key=lambda trace: trace.settings["processes"] * 10 + trace.settings["accumulate"],
        )
        assert len(others) == 5
        for other in others:
            assert max(output_gaps(other, plain).values()) < 1e-13
            torch.testing.assert_close(other.losses, plain.losses, rtol=1e-12, atol=0)
            assert other.tests.keys() == plain.tests.keys()
            for name, fingerprint in plain.fingerprints.items():
                assert other.fingerprints[name] == pytest.approx(fingerprint)


@pytest.mark.slow
def test_the_mean_of_means_is_found_out(tmp_path: Path) -> None:
    settings = ["model=mlp", "precision=float64", "max_steps=16", "loss=impostor/mean_of_means", "+loss.ignore_index=9"]
    compare = ["hydra.callbacks.compare.by=processes", "hydra.callbacks.compare.reference='1'"]
    compare += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # each run in a process that starts others
    output, errors, code = ended(
        train("-m", *settings, "processes=1,2", "nudge=0,1", *compare, f"hydra.sweep.dir={tmp_path}")
    )
    assert code == 0, errors
    assert re.search(r"2 +different +\+1\d\.\d", output)


@pytest.mark.slow
def test_torchrun_is_quiet_and_one_run(tmp_path: Path) -> None:
    """The folder that the date names is one for all; each line is printed once; it goes on with one process."""
    settings = [*SHORT, "hydra.run.dir=" + f"{tmp_path}/${{began:%H%M%S}}"]
    output, errors, code = ended(train(*settings, begin=[*TORCHRUN, "--standalone", "--nproc-per-node", "2"]))
    assert code == 0, errors
    (folder,) = tmp_path.iterdir()
    start, result, where = output.splitlines()
    assert start == "loss=torch model=mlp data=mnist device=cpu: training for 20 steps"
    assert "after 20 steps" in result
    assert where == os.path.relpath(folder, PROJECT)
    assert len(list(folder.glob("events*"))) == 1
    trace = trace_file.load(folder)
    assert (trace.settings["processes"], trace.settings["machine.threads"]) == (2, 1)
    output, errors, code = ended(train(f"resume={folder}", "epochs=3", "processes=1"))
    assert code == 0, errors
    assert trace_file.load(folder).settings["processes_before"] == [2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["accumulate=0"], "accumulate=0: expected a whole number of at least 1"),
        (
            ["batch_size=7", "processes=2", "accumulate=4"],
            "batch_size=7: expected at least 8, for processes times accumulate",
        ),
        (["model.norm=layer"], "model.norm=layer: expected batch, group or none"),
        (["model.norm=batch", "batch_size=4", "accumulate=4"], "batch normalisation needs two images in each part"),
        (
            ["compile=true", "accumulate=3"],
            "compile=true: expected a batch_size that processes times accumulate divides",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    _, errors, code = ended(train("model=mlp", *arguments, f"hydra.run.dir={tmp_path / 'run'}"))
    assert code == 2, errors
    assert said in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    """It is looked at when a step is logged; no checkpoint in between has its weights."""
    diverges = ["optimizer.lr=1e30", "log_every=10", "processes=2", f"hydra.run.dir={tmp_path}"]
    _, errors, code = ended(train(*SHORT[:-1], *diverges))
    assert code == 1
    assert errors.count("the loss is nan at step 2") == len(errors.splitlines()) == 1
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    assert len(saved["recorder"]["losses"]) == 0
    output, _, _ = ended(train(f"resume={tmp_path}"))
    assert output.startswith("loss=torch model=mlp data=mnist device=cpu: training for 20 steps")


@pytest.mark.slow
def test_batch_normalisation_of_parts_is_said_to_be_another_training(tmp_path: Path) -> None:
    settings = ["model=cnn", "model.width=4", "max_steps=2", "accumulate=2", f"hydra.run.dir={tmp_path}"]
    _, errors, code = ended(train(*settings))
    assert code == 0
    assert errors.startswith(
        "batch normalisation takes its statistics of each of 2 parts of a batch, so this is another"
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs, one for each process")
def test_processes_on_gpus(tmp_path: Path) -> None:
    settings = ["model=cnn", "device=cuda", "precision=float64", "max_steps=20"]
    for processes in (1, 2):
        _, errors, code = ended(
            train(*settings, f"processes={processes}", f"hydra.run.dir={tmp_path / str(processes)}")
        )
        assert code == 0, errors
    one, two = (trace_file.load(tmp_path / str(processes)) for processes in (1, 2))
    assert max(output_gaps(two, one).values()) < 1e-12  # batch normalisation is synchronised
