"""Runs of several processes by torchrun, real ones with gloo, and batches in parts, are the training of one."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.commands import PROJECT, compare_py, small, the_line, train_py
from tests.helpers.processes import SHORT, ended, torchrun, train, trained
from tests.helpers.runs import judged
from xent.compare import load_runs
from xent.recording.trace import load
from xent.training import checkpoint
from xent.verdict.floor import output_gaps


class Learned(torch.nn.CrossEntropyLoss):
    """Has a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = torch.nn.Parameter(torch.ones(()))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input / self.temperature, target)


@pytest.mark.slow
def test_processes_and_microbatches_make_one_training(tmp_path: Path) -> None:
    """With targets ignored and classes weighted, 13 images a process and 6 a microbatch."""
    settings = ["model.width=8", "model.norm=group", "precision=float64", "max_steps=32", "batch_size=26"]
    settings += ["+loss.ignore_index=9", "+loss.weight=[1,2,3,1,2,3,1,2,3,4]", "log_every=8"]
    alone = ["-m", "model=mlp,cnn", "accumulate=1,2", f"hydra.sweep.dir={tmp_path / 'alone'}"]
    assert train_py(*alone, *settings, "hydra.callbacks.compare.by=null").returncode == 0
    for model, processes, accumulate in (("mlp", 2, 1), ("mlp", 4, 2), ("cnn", 2, 2)):
        how = [
            f"model={model}",
            f"accumulate={accumulate}",
            f"hydra.run.dir={tmp_path / 'many' / f'{model}{processes}'}",
        ]
        trained(*settings, *how, start=torchrun(processes))
    traces = load_runs([tmp_path / "alone", tmp_path / "many"])
    assert len(traces) == 7
    for model in ("mlp", "cnn"):
        plain, *others = sorted(
            (trace for trace in traces if trace.settings["model"] == model),
            key=lambda trace: trace.settings["processes"] * 10 + trace.settings["accumulate"],
        )
        assert len(others) == {"mlp": 3, "cnn": 2}[model]
        for other in others:
            assert max(output_gaps(other, plain).values()) < 1e-13
            torch.testing.assert_close(other.losses, plain.losses, rtol=1e-12, atol=0)
            assert other.tests.keys() == plain.tests.keys()
            assert other.fingerprints.keys() == plain.fingerprints.keys()
            for name, fingerprint in plain.fingerprints.items():
                assert other.fingerprints[name] == pytest.approx(fingerprint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "verdict"), [("torch", "same within rounding"), ("impostor/mean_of_means", "different")]
)
def test_two_processes_are_judged_by_one(loss: str, verdict: str, tmp_path: Path) -> None:
    """By three commands: the reference and its nudges, the same by torchrun, and the comparison."""
    settings = ["model=mlp", "precision=float64", "max_steps=16", f"loss={loss}", "+loss.ignore_index=9"]
    floor = ["-m", "nudge=0,1,2", "hydra.callbacks.compare.by=null", f"hydra.sweep.dir={tmp_path / 'one'}"]
    assert train_py(*floor, *settings).returncode == 0
    trained(*settings, f"hydra.run.dir={tmp_path / 'two'}", start=torchrun(2))
    by = ["--by", "processes", "--reference", "1", "--output", tmp_path / "comparison"]
    result = compare_py(tmp_path / "one", tmp_path / "two", *by)
    assert result.returncode == (verdict == "different"), result.stderr
    ((name, figures),) = judged(tmp_path / "comparison").items()
    assert (name, figures["verdict"]) == ("2", verdict)
    if verdict == "different":
        assert figures["decades above floor"] > 10


def test_the_mean_of_means_is_found_out_by_accumulating(tmp_path: Path) -> None:
    smaller = ["model=mlp", "precision=float64", "max_steps=16"]
    result = train_py("-m", "+experiment=processes", *smaller, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    figures = judged(tmp_path / "comparison")
    assert {name: each["verdict"] for name, each in figures.items()} == {
        "2, torch": "same within rounding",
        "4, torch": "same within rounding",
        "2, impostor/mean_of_means": "different",
        "4, impostor/mean_of_means": "different",
    }


@pytest.mark.slow
def test_torchrun_is_quiet_and_one_run(tmp_path: Path) -> None:
    """The folder of rank 0 is that of all, whatever the date names; each line is printed once."""
    start = torchrun(2)
    output, errors, code = ended(train(*SHORT, "hydra.run.dir=" + f"{tmp_path}/${{now:%H%M%S.%f}}", start=start))
    assert (code, errors) == (0, "")
    (folder,) = tmp_path.iterdir()
    begun, result, where = output.splitlines()
    assert begun == "loss=torch model=mlp data=mnist device=cpu: training for 20 steps"
    assert "after 20 steps" in result
    assert where == os.path.relpath(folder, PROJECT)
    assert len(list(folder.glob("events*"))) == 1
    trace = load(folder)
    assert (trace.settings["processes"], trace.settings["machine.threads"]) == (2, 1)
    assert trained(f"resume={folder}", start=start) == f"{where} is finished, after 20 steps\n"


@pytest.mark.slow
def test_a_run_may_resume_with_another_number_of_processes_which_is_noted(tmp_path: Path) -> None:
    longer = ["max_steps=null", "batch_size=20000"]
    trained(*SHORT, *longer, "epochs=1", f"hydra.run.dir={tmp_path}", start=torchrun(2))
    output = trained(f"resume={tmp_path}", "epochs=2", "accumulate=2")
    assert output.startswith("loss=torch model=mlp data=mnist device=cpu, with ")
    assert " before: resuming after step 3 of 6 steps\n" in output
    trained(f"resume={tmp_path}", "epochs=3", "accumulate=2", start=torchrun(2))
    trace = load(tmp_path)
    assert (trace.step, trace.settings["processes"], trace.settings["accumulate"]) == (9, 2, 2)
    first, second = trace.settings["before"]
    assert first | {"epochs": 1, "processes": 2, "accumulate": 1} == first
    assert second | {"epochs": 2, "processes": 1} == second
    assert "accumulate" not in second


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["batch_size=7", "accumulate=8"], "batch_size=7: expected at least 8, processes times accumulate"),
        (
            ["compile=true", "accumulate=3"],
            "batch_size=128: expected at least 3, processes times accumulate, and with ",
        ),
        (["model.norm=batch", "batch_size=4", "accumulate=4"], "batch normalisation needs two images in each part"),
        (
            ["+loss.weight=[0,1,1,1,1,1,1,1,1,1]", "+loss.label_smoothing=0.1", "accumulate=2"],
            "label_smoothing=0.1 and a class of weight 0: a part without other classes has no mean",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    assert said in the_line(train_py("model=mlp", *arguments, f"hydra.run.dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data=mnist", "accumulate=33"], "batch_size=64: expected at least 66, processes times accumulate"),
        (["-m", "seed=0,1"], "torchrun with -m: expected a single run; a sweep trains each of its runs in one process"),
        (["loss=custom", "loss._target_=tests.cli.test_processes.Learned"], "the loss has weights of its own"),
    ],
    ids=["batch", "sweep", "loss"],
)
def test_what_torchrun_cannot_train_is_refused_once(arguments: list[str], said: str, tmp_path: Path) -> None:
    into = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
    refused = train(*arguments, *SHORT, f"{into}={tmp_path / 'run'}", start=torchrun(2), PYTHONPATH=str(PROJECT))
    _, errors, code = ended(refused)
    assert code == 1, errors
    assert errors.count(said) == 1, errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    """It is looked at when a step is logged; no checkpoint in between has its weights."""
    diverges = ["optimizer.lr=1e30", "log_every=10", f"hydra.run.dir={tmp_path}"]
    _, errors, code = ended(train(*SHORT[:-1], *diverges, start=torchrun(2)))
    assert code == 1
    assert errors.count("the loss is nan at step 2") == 1
    assert errors.count("what was trained is kept, to go on: python train.py resume=") == 1
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    assert len(saved["recorder"]["losses"]) == 0
    output, _, _ = ended(train(f"resume={tmp_path}"))
    assert output.startswith(
        "loss=torch model=mlp data=mnist device=cpu, with processes=2 before: training for 20 steps"
    )


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_batch_normalisation_of_microbatches_is_said_to_be_another_training(model: str, tmp_path: Path) -> None:
    result = train_py(f"model={model}", *small(max_steps=2)[1:], "accumulate=2", f"hydra.run.dir={tmp_path}")
    assert result.returncode == 0
    said = "batch normalisation takes its statistics of each of 2 parts of a batch, so this is another training"
    assert result.stderr.startswith(said) == (model == "cnn")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs, one for each process")
def test_processes_on_gpus(tmp_path: Path) -> None:
    settings = ["model=cnn", "device=cuda", "precision=float64", "max_steps=20"]
    for processes in (1, 2):
        trained(*settings, f"hydra.run.dir={tmp_path / str(processes)}", start=torchrun(processes))
    one, two = (load(tmp_path / str(processes)) for processes in (1, 2))
    assert max(output_gaps(two, one).values()) < 1e-12  # batch normalisation is synchronised
