"""Runs of several processes, real ones with gloo, and batches in parts, are the training of one process."""

from pathlib import Path

import pytest
import torch

from tests.helpers.commands import compare_py, small, the_line, train_py, trained
from tests.helpers.processes import SHORT, ranks, trained_by
from tests.helpers.runs import judged
from xent.recording.trace import load
from xent.training import checkpoint
from xent.verdict.floor import output_gaps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "processes", "accumulate"), [("mlp", 1, 2), ("mlp", 2, 1), ("mlp", 4, 2), ("cnn", 2, 2)]
)
def test_processes_and_microbatches_make_one_training(
    model: str, processes: int, accumulate: int, tmp_path: Path
) -> None:
    """With targets ignored and classes weighted, 13 images a process and 6 a microbatch."""
    settings = [f"model={model}", "model.width=8", "model.norm=group", "precision=float64", "max_steps=16"]
    settings += ["batch_size=26", "+loss.ignore_index=9", "+loss.weight=[1,2,3,1,2,3,1,2,3,4]", "log_every=8"]
    whole = trained(tmp_path / "whole", *settings)
    trained_by(processes, *settings, f"accumulate={accumulate}", f"hydra.run.dir={tmp_path / 'parts'}")
    parts = load(tmp_path / "parts")
    assert (parts.settings["processes"], parts.settings["accumulate"]) == (processes, accumulate)
    assert max(output_gaps(parts, whole).values()) < 1e-13
    torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-12, atol=0)
    assert parts.tests.keys() == whole.tests.keys()
    assert parts.fingerprints.keys() == whole.fingerprints.keys()
    for name, fingerprint in whole.fingerprints.items():
        assert parts.fingerprints[name] == pytest.approx(fingerprint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "verdict"), [("torch", "same within rounding"), ("impostor/mean_of_means", "different")]
)
def test_two_processes_are_judged_by_one(loss: str, verdict: str, tmp_path: Path) -> None:
    """By three commands: the reference and its nudges, the same by several processes, and the comparison."""
    settings = [*small(precision="float64", max_steps=16), f"loss={loss}", "+loss.ignore_index=9"]
    floor = ["-m", "nudge=0,1,2", "hydra.callbacks.compare.by=null", f"hydra.sweep.dir={tmp_path / 'one'}"]
    assert train_py(*floor, *settings).returncode == 0
    trained_by(2, *settings, f"hydra.run.dir={tmp_path / 'two'}")
    by = ["--by", "processes", "--reference", "1", "--output", tmp_path / "comparison"]
    result = compare_py(tmp_path / "one", tmp_path / "two", *by)
    assert result.returncode == (verdict == "different"), result.stderr
    ((name, figures),) = judged(tmp_path / "comparison").items()
    assert (name, figures["verdict"]) == ("2", verdict)
    if verdict == "different":
        assert figures["decades above floor"] > 10


def test_the_mean_of_means_is_found_out_by_accumulating(tmp_path: Path) -> None:
    smaller = small(precision="float64", max_steps=16)
    result = train_py("-m", "+experiment=processes", *smaller, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert {name: figures["verdict"] for name, figures in judged(tmp_path / "comparison").items()} == {
        "2, torch": "same within rounding",
        "4, torch": "same within rounding",
        "2, impostor/mean_of_means": "different",
        "4, impostor/mean_of_means": "different",
    }


@pytest.mark.slow
def test_a_run_may_resume_with_another_number_of_processes_which_is_noted(tmp_path: Path) -> None:
    longer = [*SHORT, "max_steps=null", "batch_size=20000", "epochs=1"]
    trained_by(2, *longer, f"hydra.run.dir={tmp_path}")
    resumed = train_py(f"resume={tmp_path}", "epochs=2", "accumulate=2")
    assert resumed.stdout.startswith("loss=torch model=mlp data=mnist device=cpu, with "), resumed.stderr
    assert " before: resuming after step 3 of 6 steps\n" in resumed.stdout
    trained_by(2, f"resume={tmp_path}", "epochs=3", "accumulate=2")
    trace = load(tmp_path)
    assert (trace.step, trace.settings["processes"], trace.settings["accumulate"]) == (9, 2, 2)
    first, second = trace.settings["before"]
    assert first | {"epochs": 1, "processes": 2, "accumulate": 1} == first
    assert second | {"epochs": 2, "processes": 1} == second
    assert "accumulate" not in second


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("batch_size=7 accumulate=8", "batch_size=7: expected at least 8, processes times accumulate"),
        ("compile=true accumulate=3", "batch_size=128: expected at least 3, processes times accumulate, and with "),
        ("model.norm=batch batch_size=4 accumulate=4", "batch normalisation needs two images in each part"),
        (
            "+loss.weight=[0,1,1,1,1,1,1,1,1,1] +loss.label_smoothing=0.1 accumulate=2",
            "label_smoothing=0.1 and a class of weight 0: a part of that class alone has no mean",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(arguments: str, said: str, tmp_path: Path) -> None:
    assert said in the_line(train_py("model=mlp", *arguments.split(), f"hydra.run.dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["accumulate=33"], "batch_size=64: expected at least 66, processes times accumulate"),
        (["-m", "seed=0,1"], "torchrun with -m: expected a single run; a sweep trains each of its runs in one process"),
        (["loss=custom", "loss._target_=tests.training.test_checkpoint.Dropout"], "the loss has weights of its own"),
    ],
    ids=["batch", "sweep", "loss"],
)
def test_what_several_processes_cannot_train_is_refused_once(arguments: list[str], said: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*arguments, *SHORT, f"hydra.run.dir={run}", f"hydra.sweep.dir={run}"]
    first, second = (rank.result() for rank in ranks(command, command))
    assert said in the_line(first)
    assert (second.returncode, second.stderr) == (2, "")
    assert not run.exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    """It is looked at when a step is logged; no checkpoint in between has its weights."""
    command = [*SHORT, "optimizer.lr=1e30", "log_every=10", f"hydra.run.dir={tmp_path}"]
    first, second = (rank.result() for rank in ranks(command, command))
    assert (first.returncode, second.stderr) == (1, "")
    assert first.stderr.count("the loss is nan at step 2") == 1
    assert first.stderr.count("what was trained is kept, to go on: python train.py resume=") == 1
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    assert len(saved["recorder"]["losses"]) == 0
    resumed = train_py(f"resume={tmp_path}")
    started = "loss=torch model=mlp data=mnist device=cpu, with processes=2 before: training for 20 steps"
    assert resumed.stdout.startswith(started)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_batch_normalisation_of_microbatches_is_said_to_be_another_training(model: str, tmp_path: Path) -> None:
    result = train_py(*small(model=model, max_steps=2), "accumulate=2", f"hydra.run.dir={tmp_path}")
    assert result.returncode == 0
    said = "batch normalisation takes its statistics of each of 2 parts of a batch, so this is another training"
    assert result.stderr.startswith(said) == (model == "cnn")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs, one for each process")
def test_processes_on_gpus(tmp_path: Path) -> None:
    settings = ["model=cnn", "device=cuda", "precision=float64", "max_steps=20"]
    for processes in (1, 2):
        trained_by(processes, *settings, f"hydra.run.dir={tmp_path / str(processes)}")
    one, two = (load(tmp_path / str(processes)) for processes in (1, 2))
    assert max(output_gaps(two, one).values()) < 1e-12  # batch normalisation is synchronised
