"""The commands of the README, what they leave, and what a person sees."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests.helpers.commands import PROJECT, command, compare_py, small, succeeds, the_line, train_py, trained
from tests.helpers.runs import judged, run
from xent.compare import load_runs
from xent.recording.errors import BadInput
from xent.recording.trace import load, save

NO_FLOOR = (
    "Not known: there is no floor to judge by, train the reference with nudge=0,1,2 too, for every seed "
    "(or ask python -m xent.compare --exact whether runs are equal to the last bit, which needs no floor)."
)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name.split(".tfevents")[0] for path in folder.iterdir())


def test_a_sweep_leaves_runs_and_the_comparison_of_single_runs_which_needs_a_floor(tmp_path: Path) -> None:
    losses = ["loss=torch,scratch", *small(max_steps=32)]
    assert NO_FLOOR in succeeds("-m", *losses, f"hydra.sweep.dir={tmp_path}").splitlines()
    runs = [",".join([f"loss={loss}", *small(max_steps=32)]) for loss in ("scratch", "torch")]
    assert files_in(tmp_path) == ["comparison", *runs, "multirun.yaml"]
    files = [".hydra", ".lock", "checkpoint.previous.pt", "checkpoint.pt", "events.out", "trace.npz"]
    assert [files_in(tmp_path / name) for name in runs] == [files, files]
    assert files_in(tmp_path / "comparison") == ["curves", "curves.png", "events.out", "report.md", "verdict.json"]
    (figures,) = judged(tmp_path / "comparison").values()
    assert 0 < figures["gap"]["32"] < 1e-2
    (tmp_path / "multirun.yaml").unlink()  # so that they are single runs
    result = compare_py(*tmp_path.glob("loss=*"))
    assert result.returncode == 2 and NO_FLOOR in result.stdout.splitlines()
    (comparison,) = tmp_path.glob("*_comparison")
    assert judged(comparison) == judged(tmp_path / "comparison")
    assert (comparison / "report.md").exists()


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small proof of two losses named on the command line, one of them wrong. To be read only."""
    folder = tmp_path_factory.mktemp("outputs") / "proof"
    losses = ["loss=torch,custom,impostor/temperature", "loss._target_=xent.ArticleCrossEntropyLoss"]
    overrides = [*small(max_steps=16, precision="float64", seed=0, nudge="0,1,2"), "hydra.launcher.n_jobs=1"]
    lines = succeeds("-m", "+experiment=proof", *losses, *overrides, f"hydra.sweep.dir={folder}").splitlines()
    assert lines[0].startswith("9 runs of model=mlp data=mnist device=cpu in ")
    groups = [line.partition(", test loss ")[0] for line in lines[1:4]]
    assert {*groups} == {f"loss={loss}: 3 runs" for loss in ("torch", "custom", "impostor/temperature")}
    assert len(lines) <= 30
    by = r"by 6\.\d decades above rounding, beyond the limit from step 1 on"
    answer = rf"No, one of two: impostor/temperature differs {by}\."
    assert any(re.fullmatch(answer, line) for line in lines)
    return folder


def test_the_proof_tells_a_right_loss_from_a_wrong_one_and_so_does_an_exit_code(proof: Path, tmp_path: Path) -> None:
    verdicts = {name: candidate["verdict"] for name, candidate in judged(proof / "comparison").items()}
    assert verdicts == {"ArticleCrossEntropyLoss": "same within rounding", "impostor/temperature": "different"}
    reference, *nudged = sorted(proof.glob("loss=torch,*"))
    target = load(reference).settings["loss._target_"]
    assert target == "torch.nn.CrossEntropyLoss", "loss._target_ is that of loss=custom alone"
    events = [len(list(folder.glob("events*"))) for folder in (reference, *nudged)]
    assert events == [1, 0, 0], "nudged runs measure, and are no curves to look at"
    same = compare_py(reference, *nudged, *proof.glob("loss=custom,*"), "--output", tmp_path)
    yes = "Yes: ArticleCrossEntropyLoss trains as torch does, in float64, over one seed."
    assert same.returncode == 0 and yes in same.stdout.splitlines()
    assert compare_py(reference, *nudged, *proof.glob("loss=impostor*"), "--output", tmp_path).returncode == 1
    itself = compare_py(reference, reference, "--output", tmp_path)
    assert itself.returncode == 0 and "bitwise identical" in itself.stdout and "not used" not in itself.stdout


def test_the_runs_of_a_sweep_may_be_in_folders_of_folders(proof: Path, tmp_path: Path) -> None:
    for folder in proof.glob("loss=*"):
        shutil.copytree(folder, tmp_path / "sweep" / "a" / folder.name.replace(",", "/"))
    shutil.copy(proof / "multirun.yaml", tmp_path / "sweep")
    assert compare_py(tmp_path / "sweep", "--output", tmp_path / "comparison").returncode == 1
    deep, flat = (judged(folder / "comparison").values() for folder in (tmp_path, proof))
    assert [candidate["gap"] for candidate in deep] == [candidate["gap"] for candidate in flat]


def names(*folders: Path) -> list[str]:
    return [trace.name for trace in load_runs(folders)]


def test_a_folder_stands_for_the_runs_in_it_each_named_by_what_not_all_share(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a / "loss=torch,seed=0", a / "loss=torch,seed=1", b / "loss=torch", b / "loss=scratch"):
        folder.mkdir(parents=True)
        save(run("torch"), folder)
    assert names(a) == ["seed=0", "seed=1"]
    assert names(b / "loss=torch") == ["loss=torch"]
    assert names(a / "loss=torch,seed=0", b / "loss=torch") == ["a/loss=torch,seed=0", "b/loss=torch"], "of two sweeps"
    (b / "comparison").mkdir()
    assert names(b) == ["loss=scratch", "loss=torch"]
    (b / "comparison" / "verdict.json").touch()
    assert len(names(*b.iterdir())) == 2, "runs/* names the comparison of before too"
    (b / "loss=scratch" / "trace.npz").rename(b / "loss=scratch" / "checkpoint.pt")
    with pytest.raises(BadInput, match="loss=scratch is not finished: go on with it, python train.py resume="):
        load_runs([b])


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.slow
def test_in_a_terminal_of_80_columns_nothing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the proof, with fewer steps than those of make compare; the answer is a sentence."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tests.helpers.commands.StringIO", Terminal)
    result = train_py(
        "-m", "+experiment=proof", "max_steps=16", "hydra.launcher.n_jobs=1", f"hydra.sweep.dir={tmp_path / 'proof'}"
    )
    assert result.returncode == 0, result.stderr
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.stdout)
    assert shown.startswith("\rtrying the losses of 72 runs\r72 runs of model=mlp data=mnist device=cpu in ")
    lines = re.findall(r"\r([^\r\n]*)", shown)
    assert re.search(r"\r70 of 72 runs, \d+ s left", shown) and max(map(len, lines[2:])) < 80, "one line, updated"
    assert "test loss" not in shown
    verdict = shown[shown.index(" run ") :]
    assert "…" not in verdict
    for loss in ("article", "fused", "scratch"):
        for precision in ("float32", "float64"):
            row = rf"^ {loss}, {precision} +same within rounding +[+-]\d\.\d\d +1\.15 *$"
            assert re.search(row, verdict, re.MULTILINE)
    yes = "Yes: article, fused and scratch train as torch does, in float32 and float64, over three seeds."
    assert yes in " ".join(verdict.split())
    assert (tmp_path / "proof" / "comparison" / "verdict.json").stat().st_size < 20_000


def test_one_run_is_named_by_what_its_command_line_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds the project's data from anywhere."""
    monkeypatch.chdir(tmp_path)
    output = succeeds("loss=article", *small())
    (folder,) = Path("outputs").iterdir()
    assert folder.name[19:].startswith("_loss=article,model=mlp")
    assert output.splitlines()[-1] == str(folder)


def test_a_run_that_resumes_says_how_many_steps_it_made_in_its_time(tmp_path: Path) -> None:
    run = [*small(max_steps="null", batch_size=20000), f"hydra.run.dir={tmp_path / 'run'}"]
    assert re.search(r"after 3 steps in \d+\.\d s\n", succeeds(*run, "epochs=1"))
    assert re.search(r"after 6 steps, the last 3 in \d+\.\d s\n", succeeds(*run, "epochs=2"))


def test_without_the_extra_a_comparison_names_it_and_gives_no_verdict(tmp_path: Path) -> None:
    """Which would be exit code 0 or 1. That of equal bits needs none."""
    runs = [str(trained(tmp_path / loss, *small(loss=loss)).folder) for loss in ("torch", "scratch")]
    hidden = "import sys; sys.modules.update(matplotlib=None, tensorboard=None, rich=None, hydra=None); "
    compared = hidden + "from xent.compare import main; main(sys.argv[1:])"
    line = the_line(command("-c", compared, *runs))
    assert line.endswith(": a report needs the extra `train`, pip install 'PATH_OF_XENT[train]'")
    assert command("-c", compared, "--exact", *runs[:1] * 2).returncode == 0


def test_a_sweep_goes_on_after_a_run_that_had_to_stop_and_says_why_there_is_no_comparison(tmp_path: Path) -> None:
    result = train_py("-m", "loss=torch", "optimizer.lr=1e30,0.05", *small(), f"hydra.sweep.dir={tmp_path}")
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert "the loss is nan at step 2" in result.stderr
    typed = " ".join(["loss=torch", "optimizer.lr=1e30,0.05", *small()])
    go_on = (
        f"what was trained is kept, to go on: python train.py -m hydra.sweep.dir={os.path.relpath(tmp_path)} {typed}"
    )
    assert result.stderr.splitlines()[-1] == f"not compared, since a run had to stop; {go_on}"
    assert result.stderr.count("to go on: ") == 1
    (finished,) = tmp_path.glob("*/trace.npz")
    assert finished.parent.name.split(",")[1] == "optimizer.lr=0.05"
    no_reference = ["loss=scratch,article", *small(max_steps=2), f"hydra.sweep.dir={tmp_path / 'no_reference'}"]
    line = the_line(train_py("-m", *no_reference), code=0)
    assert (
        "no run has loss=torch: train one, or give another reference, one of article, scratch, by --reference" in line
    )
    assert len(list(tmp_path.glob("no_reference/*/trace.npz"))) == 2


def test_a_single_run_imports_nothing_to_compare_with(tmp_path: Path) -> None:
    """Plots and statistics would make up a tenth of its start."""
    result = command("-X", "importtime", "train.py", *small(), f"hydra.run.dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "xent.training.loop" in imported
    assert not imported & {"matplotlib", "pandas", "scipy", "xent.compare", "xent.verdict", "xent.report"}


def test_the_fast_recipe_learns_mnist_in_an_epoch(tmp_path: Path) -> None:
    succeeds("+experiment=fast", "loss=scratch", f"hydra.run.dir={tmp_path / 'run'}")
    trace = load(tmp_path / "run")
    assert list(trace.tests) == [trace.step], "tested at the end alone"
    assert trace.tests[trace.step][1] > 0.985


def test_a_line_of_a_run_is_seen_at_once(tmp_path: Path) -> None:
    class Pipe(StringIO):
        seen = ""

        def flush(self) -> None:
            self.seen = self.getvalue()

    with redirect_stdout(Pipe()) as pipe:
        trained(tmp_path, "model=mlp", "model.width=4", "max_steps=2")
    assert "after 2 steps" in pipe.seen == pipe.getvalue()


def test_outside_the_environment_a_line_says_what_to_activate() -> None:
    result = subprocess.run([sys.executable, "-S", "train.py"], cwd=PROJECT, capture_output=True, text=True)
    line = "No module named 'hydra': expected the environment of make compare, source .venv/bin/activate\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", line)
