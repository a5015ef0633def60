"""Every block of code and every command that README, docs, --help and the experiments show runs; of make, targets.

What docs/own-training.md shows, tests/test_examples.py runs.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from packaging.version import Version

import xent
from tests.helpers.commands import PROJECT, compare_py, train_py
from tests.helpers.published_files import write_cifar, write_mnist

PAGES = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
YOUR_LOSS = PROJECT / "docs" / "your-loss.md"
HELP = PROJECT / "configs" / "hydra" / "help" / "xent.yaml"
EXPERIMENTS = sorted((PROJECT / "configs" / "experiment").glob("*.yaml"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where python is
TORCHRUN = "torchrun --nproc-per-node 2 "


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


def commands(block: str) -> list[str]:
    """The lines of a block, without their comments."""
    return [line.partition(" #")[0].strip() for line in block.splitlines()]


def trainings(text: str) -> list[str]:
    """The commands of lines or comments, without the time that they take."""
    return re.findall(r"^[# ]*(python train\.py(?: \S+)*?)(?:  .*)?$", text, re.MULTILINE)


CONSOLE = [block for page in PAGES if page.name != "own-training.md" for block in blocks(page, "console")]
COMPARED = [block for block in CONSOLE if "xent.compare" in block]
COMMANDS = [line.replace(TORCHRUN, "python ") for block in CONSOLE if block not in COMPARED for line in commands(block)]
EXAMPLES = [example for example in trainings(HELP.read_text()) if "[" not in example]
OF_EXPERIMENTS = [line for file in EXPERIMENTS for line in trainings(file.read_text())]
TRAININGS = dict.fromkeys([line for line in COMMANDS if line.startswith("python train.py")] + EXAMPLES + OF_EXPERIMENTS)
OTHERS = [line for line in COMMANDS if not line.startswith("python ")]


@pytest.mark.parametrize("line", TRAININGS)
def test_a_training_that_is_shown(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is shown, but for its size."""
    if "submitit_slurm" in line:
        pytest.skip("there is no Slurm here; tests/cli/test_side_by_side.py has submitit's executor for one machine")
    if "+experiment=device" in line and not torch.cuda.is_available():
        pytest.skip("compares the CPU with a GPU, and there is none here")
    monkeypatch.chdir(tmp_path)
    for text in blocks(YOUR_LOSS, "yaml"):
        file = tmp_path / text.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    name, write = ("CIFAR10", write_cifar) if "cifar10" in line else ("MNIST", write_mnist)
    for attribute, value in write(tmp_path / "data").items():
        monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, value)

    arguments, small = line, ["model.width=4", "max_steps=2", f"data.root={tmp_path / 'data'}"]
    if "-m " in line and "experiment=" in line:
        small += ["seed=0", "nudge=0", "precision=float32"]
    if "resume=outputs/RUN" in line:
        assert train_py("model=mlp", *small, "hydra.run.dir=outputs/RUN").returncode == 0
        small = []
    smaller = {"seed=0,1,2": "seed=0", "nudge=0,1,2": "nudge=0", "n_jobs=4": "n_jobs=1 loss=torch,fused"}
    smaller |= {} if torch.cuda.is_available() else {"device=cuda": "device=cpu"}
    for shown, instead in smaller.items():
        arguments = arguments.replace(shown, instead)
    result = train_py(*shlex.split(arguments)[2:], *small)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    is_compared = "-m " in line and ("+experiment=arithmetic" not in line or "compare.by=loss" in line)
    assert list(Path("outputs").glob("*/comparison/report.md" if is_compared else "**/trace.npz"))


@pytest.mark.parametrize("line", OTHERS)
def test_another_command_that_is_shown(line: str) -> None:
    if line.startswith(("make ", "source ")):
        word = line.split()[1]
        expected = rf"^{word}: \$\((TRAIN|DEV)\) ##" if line.startswith("make ") else f"^BIN := {Path(word).parent}$"
        assert re.search(expected, (PROJECT / "Makefile").read_text(), re.MULTILINE)
        return
    assert 'eval "$(python train.py -sc install=' in line, f"{line} is not tested"
    shell = "zsh" if "bashcompinit" in line else "bash"
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    script = f"{line.replace('&& compinit', '&& compinit -u')} && complete -p"  # unasked, whoever owns its files
    done = subprocess.run([shell, "-c", script], cwd=PROJECT, env=ENVIRONMENT, capture_output=True)
    assert b"-F hydra_bash_completion python" in done.stdout, done.stderr


@pytest.mark.parametrize("block", COMPARED, ids=lambda block: block.split()[-2])
def test_runs_of_several_commands_are_compared(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are shown, but for their size; in processes where they have another environment, or are several."""
    if "machine.instructions" in block and Version(torch.__version__) < Version("2.14"):
        pytest.skip("an older PyTorch has another name for no vector instructions")
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "configs"):
        (tmp_path / name).symlink_to(PROJECT / name)
    small = ["model.width=4", "max_steps=4", "seed=0", f"data.root={PROJECT / 'data'}"]
    if "+experiment" in block:
        small += ["nudge=0,1", "precision=float32"]
    for line in commands(block.replace("nudge=0,1,2", "nudge=0,1")):
        line = line.removeprefix(f"OMP_NUM_THREADS={torch.get_num_threads()} ")  # as in this process
        if line.startswith("python -m xent.compare "):
            result = compare_py(*shlex.split(line)[3:])
        elif line.startswith("python train.py "):
            result = train_py(*shlex.split(line)[2:], *small)
        else:
            result = subprocess.run(f"{line} {shlex.join(small)}", shell=True, env=ENVIRONMENT)
        assert result.returncode == 0, result


def test_make_compare_is_the_proof() -> None:
    dry = subprocess.run(["make", "-n", "compare"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ".venv/bin/python train.py -m +experiment=proof" in dry.stdout.splitlines()


@pytest.mark.parametrize("page", [PROJECT / "README.md", YOUR_LOSS], ids=lambda page: page.name)
def test_code_that_proves_your_loss(page: Path) -> None:
    names: dict[str, Any] = {"YourLoss": xent.CrossEntropyLossFromScratch}
    for code in blocks(page, "python"):
        if "linear_cross_entropy" not in code or hasattr(torch.nn.functional, "linear_cross_entropy"):
            exec(code, names)
    with pytest.raises(AssertionError, match="training is different"):
        exec(blocks(page, "python")[0], {"YourLoss": lambda: lambda z, t: 1.01 * xent.cross_entropy(z, t)})


def test_all_code_is_known_to_a_test() -> None:
    """What else stands in the pages of docs/ is written there by docs/__main__.py, as tests/test_docs.py holds."""
    for page in PAGES:
        known = {"console", "python", ""} | (set() if page.name == "README.md" else {"yaml", "text", "math"})
        assert {language for language, _ in BLOCK.findall(page.read_text())} <= known


def test_help_names_every_choice() -> None:
    result = train_py("--help")
    assert result.returncode == 0
    assert len(EXAMPLES) >= 10
    assert all(example in result.stdout for example in EXAMPLES)
    choices, _, experiments = result.stdout.partition("Examples")[0].partition("+experiment")
    for group in ("loss", "model", "data", "optimizer", "experiment"):
        for file in (PROJECT / "configs" / group).glob("*.yaml"):
            text = experiments if group == "experiment" else choices
            assert re.search(rf"\b{file.stem}\b", text), f"{group}={file.stem}"
    assert "\non_nonfinite: stop\n" in result.stdout, "every setting is shown"
    assert max(map(len, result.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("typed", "completed"), [("loss=scr", "loss=scratch"), ("optimizer.mom", "optimizer.momentum=")]
)
def test_the_shell_completes(typed: str, completed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the functions ask that `-sc install=bash` defines."""
    line = f"python train.py {typed}"
    for name, value in {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "2"}.items():
        monkeypatch.setenv(name, value)
    assert train_py("-sc", "query=bash").stdout.split() == [completed]


@pytest.mark.parametrize(("answer", "is_left"), [("n", True), ("", True), ("y", False)])
def test_make_clean_removes_what_runs_left_if_one_says_so(answer: str, is_left: bool, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "run").mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    make = ["make", "-f", str(PROJECT / "Makefile"), "clean"]
    done = subprocess.run(make, cwd=tmp_path, input=f"{answer}\n", capture_output=True, text=True, check=True)
    assert "remove all of it? [y/N]" in done.stdout
    assert (tmp_path / "outputs" / "run").exists() is is_left
    assert (tmp_path / ".venv").exists(), "which is make clean-env's"
