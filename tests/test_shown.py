"""Every block of code and every training that README, docs, --help and the experiments show runs; of make, targets.

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

import xent
from tests.helpers.commands import PROJECT, command, train_py
from tests.helpers.published_files import write_cifar

PAGES = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
WITH_TRAIN_PY = [page for page in PAGES if page.name != "own-training.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HELP = PROJECT / "configs" / "hydra" / "help" / "xent.yaml"
EXPERIMENTS = sorted((PROJECT / "configs" / "experiment").glob("*.yaml"))


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(page.read_text()) if found == language]


def lines(page: Path) -> list[str]:
    """The commands in a page's blocks, without their comments."""
    return [line.partition(" #")[0].strip() for block in blocks(page, "console") for line in block.splitlines()]


def trainings(text: str) -> list[str]:
    """Lines that are one command each, or such a line of a comment, with or without the time it takes behind."""
    return re.findall(r"^[# ]*(python train\.py(?: \S+)*?)(?:  .*)?$", text, re.MULTILINE)


YOUR_LOSS = PROJECT / "docs" / "your-loss.md"
YAML = blocks(YOUR_LOSS, "yaml")
COMMANDS = [line for page in WITH_TRAIN_PY for line in lines(page)]
ENVIRONMENT = re.compile(r"^(?:[A-Z_]+=\S+ )+(?=python )")
EXAMPLES = [example for example in trainings(HELP.read_text()) if "[" not in example]
TRAININGS = dict.fromkeys(
    [line for line in COMMANDS if line.startswith("python train.py")]
    + [ENVIRONMENT.sub("", line) for line in COMMANDS if ENVIRONMENT.match(line)]
    + EXAMPLES
    + [line for file in EXPERIMENTS for line in trainings(file.read_text())]
)


@pytest.fixture
def _at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with MNIST, a small CIFAR-10, and the losses that are shown as files."""
    monkeypatch.chdir(tmp_path)
    for text in YAML:
        file = tmp_path / text.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "MNIST").symlink_to(PROJECT / "data" / "MNIST")
    for attribute, value in write_cifar(tmp_path / "data").items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, attribute, value)


@pytest.mark.usefixtures("_at_hand")
@pytest.mark.parametrize("line", TRAININGS)
def test_a_training_that_is_shown(line: str) -> None:
    """As it is shown, but for its size."""
    arguments = shlex.split(line)[2:]
    if "hydra/launcher=submitit_slurm" in arguments:
        pytest.skip("there is no Slurm here; tests/cli/test_side_by_side.py has submitit's executor for one machine")
    if any("cuda" in argument or argument == "+experiment=device" for argument in arguments):
        if "-m" in arguments and not torch.cuda.is_available():
            pytest.skip("compares the CPU with a GPU, and there is none here")
        arguments = [each if torch.cuda.is_available() else each.replace("cuda", "cpu") for each in arguments]
    if "cifar" in line:
        arguments.append("data.root=data")
    if "resume=outputs/RUN" in arguments:
        assert train_py("model=mlp", "model.width=4", "max_steps=2", "hydra.run.dir=outputs/RUN").returncode == 0
    else:
        arguments += ["model.width=4", "max_steps=2"]
        if "-m" in arguments and any("experiment=" in argument for argument in arguments):
            arguments += ["seed=0", "nudge=0,1", "precision=float32"]
    result = train_py(*arguments)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    alone = ("+experiment=arithmetic" in arguments and "loss=torch," not in line) or "compare.by=null" in line
    compared = "-m" in arguments and not alone
    assert list(Path("outputs").glob("*/comparison/report.md" if compared else "**/trace.npz"))


OTHERS = [line for line in COMMANDS if not line.startswith(("python ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"))]


@pytest.mark.parametrize("line", OTHERS)
def test_another_command_that_is_shown(line: str, tmp_path: Path) -> None:
    makefile = (PROJECT / "Makefile").read_text()
    if line.startswith("torchrun "):
        begin = [sys.executable, "-m", "torch.distributed.run", *line.split()[1:]]
        small = ["model.width=4", "max_steps=2", f"hydra.run.dir={tmp_path}"]
        subprocess.run([*begin, *small], cwd=PROJECT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert (tmp_path / "trace.npz").exists()
    elif line.startswith("make "):
        assert re.search(rf"^{line.split()[1]}: \$\((TRAIN|DEV)\) ##", makefile, re.MULTILINE)
    elif line.startswith("source "):
        assert f"BIN := {Path(line.split()[1]).parent}\n" in makefile
    else:
        assert 'eval "$(python train.py -sc install=' in line, f"{line} is not tested"
        shell = "zsh" if "bashcompinit" in line else "bash"
        if not shutil.which(shell):
            pytest.skip(f"there is no {shell} here")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where python is
        script = f"{line.replace('&& compinit', '&& compinit -u')} && complete -p"  # unasked, whoever owns its files
        done = subprocess.run([shell, "-c", script], cwd=PROJECT, env=os.environ | {"PATH": path}, capture_output=True)
        assert b"-F hydra_bash_completion python" in done.stdout, done.stderr


COMPARED = [block for page in WITH_TRAIN_PY for block in blocks(page, "console") if "xent.compare" in block]


@pytest.mark.parametrize("block", COMPARED, ids=lambda block: block.split()[-2])
def test_runs_of_several_commands_are_compared(block: str, tmp_path: Path) -> None:
    """As they are shown, but for their size, each in a process that has its environment from the start."""
    for line in block.splitlines():
        environment = dict(part.split("=") for part in (ENVIRONMENT.match(line) or [""])[0].split())
        arguments = shlex.split(ENVIRONMENT.sub("", line))[1:]
        if "-m xent.compare" not in line:
            arguments += ["model.width=4", "max_steps=4", "seed=0", f"data.root={PROJECT / 'data'}"]
        if line.startswith("torchrun "):
            arguments = ["-m", "torch.distributed.run", *arguments]
        arguments = [str(PROJECT / word) if word == "train.py" else word for word in arguments]
        result = command(*arguments, cwd=tmp_path, PYTHONPATH=str(PROJECT), **environment)
        assert result.returncode == 0, result.stdout + result.stderr


def test_make_compare_is_the_proof() -> None:
    made = subprocess.run(["make", "-n", "compare"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ".venv/bin/python train.py -m +experiment=proof" in made.stdout.splitlines()


@pytest.mark.parametrize("page", [PROJECT / "README.md", YOUR_LOSS], ids=lambda page: page.name)
def test_code_that_proves_your_loss(page: Path) -> None:
    names: dict[str, Any] = {"YourLoss": xent.CrossEntropyLossFromScratch}
    for code in blocks(page, "python"):
        exec(code, names)
    with pytest.raises(AssertionError, match="training is different"):
        exec(blocks(page, "python")[0], {"YourLoss": lambda: lambda z, t: 1.01 * xent.cross_entropy(z, t)})


def test_all_code_is_known_to_a_test() -> None:
    """What stands in the pages of docs/ is written there by docs/__main__.py, as tests/test_docs.py holds."""
    for page in PAGES:
        languages = {language for language, _ in BLOCK.findall(page.read_text())}
        assert languages <= (
            {"console", "python", ""} if page.name == "README.md" else {"console", "python", "yaml", "text", "math", ""}
        )


def test_help_names_every_choice() -> None:
    result = train_py("--help")
    assert result.returncode == 0
    assert len(EXAMPLES) >= 10
    assert all(example in result.stdout for example in EXAMPLES)
    for group in ("loss", "model", "data", "optimizer", "experiment"):
        for file in (PROJECT / "configs" / group).glob("*.yaml"):
            choices = result.stdout.partition("Examples")[0].partition("+experiment")[2 * (group == "experiment")]
            assert re.search(rf"\b{file.stem}\b", choices), f"{group}={file.stem}"
    assert "\non_nonfinite: stop\n" in result.stdout, "every setting is shown"
    assert max(map(len, result.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("typed", "completed"), [("loss=scr", "loss=scratch"), ("optimizer.mom", "optimizer.momentum=")]
)
def test_the_shell_completes(typed: str, completed: str) -> None:
    """As the functions ask that `-sc install=bash` defines."""
    line = f"python train.py {typed}"
    asked = command("train.py", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)), COMP_CWORD="2")
    assert asked.stdout.split() == [completed], asked.stderr


@pytest.mark.parametrize(("answer", "left"), [("n", True), ("", True), ("y", False)])
def test_make_clean_removes_what_runs_left_if_one_says_so(answer: str, left: bool, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "run").mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    make = ["make", "-f", str(PROJECT / "Makefile"), "clean"]
    done = subprocess.run(make, cwd=tmp_path, input=f"{answer}\n", capture_output=True, text=True, check=True)
    assert "remove all of it? [y/N]" in done.stdout
    assert (tmp_path / "outputs" / "run").exists() is left
    assert (tmp_path / ".venv").exists(), "which is make clean-env's"
