"""The commands of the README, what they leave, and what a person sees."""

import re
import shutil
from io import StringIO
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import command, compare_py, small, the_line, train_py
from tests.helpers.runs import judged
from xent.recording.trace import load

NO_FLOOR = "Not known: there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed."


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep over two losses. To be read only."""
    folder = tmp_path_factory.mktemp("outputs") / "sweep"
    result = train_py("-m", "loss=torch,scratch", *small(max_steps=32), f"hydra.sweep.dir={folder}")
    assert result.returncode == 0, result.stderr
    assert NO_FLOOR in result.stdout.splitlines()
    return folder


def test_a_sweep_leaves_a_folder_a_run_and_their_comparison(sweep: Path) -> None:
    runs = {",".join([f"loss={loss}", *small(max_steps=32)]) for loss in ("torch", "scratch")}
    assert {path.name for path in sweep.iterdir()} == runs | {"comparison", "multirun.yaml"}
    for run in runs:
        files = sorted(path.name.split(".tfevents")[0] for path in (sweep / run).iterdir())
        assert files == [".hydra", ".lock", "checkpoint.previous.pt", "checkpoint.pt", "events.out", "trace.npz"]
    files = sorted(path.name.split(".tfevents")[0] for path in (sweep / "comparison").iterdir())
    assert files == ["curves", "curves.png", "events.out", "report.md", "verdict.json"]
    (figures,) = judged(sweep / "comparison").values()
    assert 0 < figures["gap"]["32"] < 1e-2


def test_single_runs_are_compared_as_those_of_a_sweep_are_and_need_a_floor(sweep: Path, tmp_path: Path) -> None:
    runs = [shutil.copytree(run, tmp_path / run.name) for run in sweep.glob("loss=*")]
    result = compare_py(*runs)
    assert result.returncode == 2
    assert NO_FLOOR in result.stdout.splitlines()
    (comparison,) = tmp_path.glob("*_comparison")
    assert judged(comparison) == judged(sweep / "comparison")
    assert (comparison / "report.md").exists()


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small proof of two losses named on the command line, one of them wrong. To be read only."""
    folder = tmp_path_factory.mktemp("outputs") / "proof"
    losses = ["loss=torch,custom,impostor/temperature", "loss._target_=xent.ArticleCrossEntropyLoss"]
    overrides = small(max_steps=16, precision="float64", seed=0, nudge="0,1,2")
    result = train_py("-m", "+experiment=proof", *losses, *overrides, f"hydra.sweep.dir={folder}")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("9 runs of model=mlp data=mnist device=cpu in ")
    assert [line.partition(" of 9, ")[0] for line in lines[1:10]] == [*"123456789"], "a line a run, without a terminal"
    assert len(lines) <= 35
    assert "No, one of two: impostor/temperature differs from step 1 on, by 6.1 decades above rounding." in lines
    return folder


def test_the_proof_tells_a_right_loss_from_a_wrong_one(proof: Path) -> None:
    verdicts = {name: candidate["verdict"] for name, candidate in judged(proof / "comparison").items()}
    assert verdicts == {"ArticleCrossEntropyLoss": "same within rounding", "impostor/temperature": "different"}
    reference, *nudged = sorted(proof.glob("loss=torch,*"))
    target = load(reference).settings["loss._target_"]
    assert target == "torch.nn.CrossEntropyLoss", "loss._target_ is that of loss=custom alone"
    assert list(reference.glob("events*"))
    assert [list(run.glob("events*")) for run in nudged] == [[], []], "they measure, and are no curves to look at"


def test_the_runs_of_a_sweep_may_be_in_folders_of_folders(proof: Path, tmp_path: Path) -> None:
    for run in proof.glob("loss=*"):
        shutil.copytree(run, tmp_path / "sweep" / "a" / run.name.replace(",", "/"))
    shutil.copy(proof / "multirun.yaml", tmp_path / "sweep")
    assert compare_py(tmp_path / "sweep", "--output", tmp_path / "comparison").returncode == 1
    deep, flat = (judged(folder / "comparison").values() for folder in (tmp_path, proof))
    assert [candidate["gap"] for candidate in deep] == [candidate["gap"] for candidate in flat]


def test_the_exit_code_of_a_comparison_tells_the_verdict(proof: Path, tmp_path: Path) -> None:
    references = sorted(proof.glob("loss=torch,*"))
    same = compare_py(*references, *proof.glob("loss=custom,*"), "--output", tmp_path)
    yes = "Yes: ArticleCrossEntropyLoss trains as torch does, in float64, over one seed."
    assert same.returncode == 0 and yes in same.stdout.splitlines()
    assert compare_py(*references, *proof.glob("loss=impostor*"), "--output", tmp_path).returncode == 1
    with_itself = compare_py(references[0], references[0], "--output", tmp_path)
    assert with_itself.returncode == 0
    assert "bitwise identical" in with_itself.stdout and "not used" not in with_itself.stdout


def test_another_number_of_threads_gets_a_verdict(proof: Path, tmp_path: Path) -> None:
    """Of the same loss: with more or fewer threads, sums are added up in another order."""
    overrides = small(max_steps=16, precision="float64", seed=0, **{"optimizer.lr": 0.1})  # as the proof has it
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert train_py(*overrides, f"hydra.run.dir={tmp_path / 'run'}").returncode == 0
    finally:
        torch.set_num_threads(threads)
    by = ["--by", "machine.threads", "--reference", threads]
    result = compare_py(*proof.glob("loss=torch,*"), tmp_path / "run", *by, "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "same within rounding" in result.stdout or "bitwise identical" in result.stdout
    line = the_line(compare_py(*proof.glob("loss=custom,*nudge=0*"), tmp_path / "run"))
    assert "are not matched, they differ in machine.threads (" in line
    assert "nudge" not in line.partition("they differ")[2]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.slow
def test_in_a_terminal_of_80_columns_nothing_of_the_proof_is_cut_and_the_answer_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer steps than those of make compare."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tests.helpers.commands.StringIO", Terminal)
    result = train_py("-m", "+experiment=proof", "max_steps=16", f"hydra.sweep.dir={tmp_path / 'proof'}")
    assert result.returncode == 0, result.stderr
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.stdout)
    assert shown.startswith("72 runs of model=mlp data=mnist device=cpu in ")
    assert "12 of 72, loss=torch nudge=1 seed=2 precision=float64: test loss" in shown
    assert re.search(r"^\r?70 of 72, .*precision=float\d\d ━", shown, re.MULTILINE), "its progress"
    verdict = shown[shown.index(" run ") :]
    assert "…" not in verdict
    for loss in ("article", "fused", "scratch"):
        for precision in ("float32", "float64"):
            row = rf"^ {loss}, {precision} +same within rounding +[+-]\d\.\d\d +1\.15 *$"
            assert re.search(row, verdict, re.MULTILINE)
    yes = "Yes: article, fused and scratch train as torch does, in float32 and float64, over three seeds."
    assert yes in " ".join(verdict.split())
    assert (tmp_path / "proof" / "comparison" / "verdict.json").stat().st_size < 20_000


def test_a_run_says_what_it_is_and_from_where_it_resumes(tmp_path: Path) -> None:
    overrides = [*small(batch_size=30_000, max_steps=4), "device=cpu", f"hydra.run.dir={tmp_path / 'run'}"]
    what = "loss=torch model=mlp data=mnist device=cpu"
    first = train_py(*overrides, "epochs=1").stdout.splitlines()
    assert first[0] == f"{what}: training for 2 steps"
    assert re.fullmatch(r"test loss \d\.\d{4}, accuracy \d\d?\.\d\d%, after 2 steps in \d+\.\d s", first[1])
    again = train_py(*overrides, "epochs=2").stdout.splitlines()
    assert again[0] == f"{what}, with epochs=1 before: resuming after step 2 of 4 steps"


def test_one_run_is_named_by_what_its_command_line_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds the project's data from anywhere."""
    monkeypatch.chdir(tmp_path)
    result = train_py("loss=article", *small())
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    assert folder.name[19:].startswith("_loss=article,model=mlp")
    assert result.stdout.splitlines()[-1] == str(Path("outputs") / folder.name)


def test_a_run_that_had_to_stop_does_not_stop_its_sweep(tmp_path: Path) -> None:
    result = train_py("-m", "loss=torch", "optimizer.lr=1e30,0.05", *small(), f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "the loss is nan at step 2" in result.stderr
    assert result.stderr.splitlines()[-1] == "not compared: a run had to stop"
    assert [file.parent.name.split(",")[1] for file in tmp_path.glob("*/trace.npz")] == ["optimizer.lr=0.05"]


def test_a_sweep_without_a_reference_says_why_there_is_no_comparison(tmp_path: Path) -> None:
    result = train_py("-m", "loss=scratch,article", *small(max_steps=2), f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "no run has loss=torch: train one, or compare with --reference, one of article, scratch" in result.stderr
    assert len(list(tmp_path.glob("*/trace.npz"))) == 2


def test_a_single_run_imports_nothing_to_compare_with(tmp_path: Path) -> None:
    """Plots and statistics would make up a tenth of its start."""
    result = command("-X", "importtime", "train.py", *small(), f"hydra.run.dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "xent.training.loop" in imported
    assert not imported & {"matplotlib", "pandas", "scipy", "xent.compare", "xent.verdict", "xent.report"}


def test_the_fast_recipe_learns_mnist_in_an_epoch(tmp_path: Path) -> None:
    result = train_py("+experiment=fast", "loss=scratch", f"hydra.run.dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    trace = load(tmp_path / "run")
    assert list(trace.tests) == [trace.step], "tested at the end alone"
    assert trace.tests[trace.step][1] > 0.985
