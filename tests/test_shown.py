"""What pages, --help and experiments show is so: code, commands, rooms. test_docs.py has docs/own-training.md."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from packaging.version import Version

import xent
from tests.helpers.commands import PROJECT, command, compare_py, train_py
from tests.helpers.published_files import write_cifar, write_mnist

PAGES = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
YOUR_LOSS, CONTRIBUTING = PROJECT / "docs" / "your-loss.md", PROJECT / "CONTRIBUTING.md"
HELP = PROJECT / "configs" / "hydra" / "help" / "xent.yaml"
EXPERIMENTS = sorted((PROJECT / "configs" / "experiment").glob("*.yaml"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where python is
TORCHRUN = "torchrun --nproc-per-node 2 "


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


def files(page: Path) -> list[tuple[str, str]]:
    """The blocks that begin with the path of a file, and what stands in it."""
    return re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return [line.partition(" #")[0].strip() for line in block.splitlines()]


def trainings(text: str) -> list[str]:
    """The commands of lines or comments, without the time that they take."""
    return re.findall(r"^[# ]*(python train\.py(?: \S+)*?)(?:  .*)?$", text, re.MULTILINE)


IN_TEST_DOCS = "--by variant", "--by machine.torch", "--by commit"  # with what comes before them
CONSOLE = [block for page in PAGES if page.name != "own-training.md" for block in blocks(page, "console")]
CONSOLE = [block for block in CONSOLE if not any(words in block for words in IN_TEST_DOCS)]
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
        pytest.skip("there is no Slurm here; tests/cli/test_interrupt.py has submitit's executor for one machine")
    if "+experiment=device" in line and not torch.cuda.is_available():
        pytest.skip("compares the CPU with a GPU, and there is none here")
    monkeypatch.chdir(tmp_path)
    for file, text in files(YOUR_LOSS):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)
    name, write = ("CIFAR10", write_cifar) if "cifar10" in line else ("MNIST", write_mnist)
    for attribute, value in write(tmp_path / "data").items():
        monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, value)

    small = ["model.width=4", "max_steps=2", f"data.root={tmp_path / 'data'}"]
    if "-m " in line and "experiment=" in line:
        small += ["seed=0", "nudge=0", "precision=float32"]
    if "+experiment=proof" in line:
        small += ["hydra.launcher.n_jobs=1"]  # in this process, which has these data
    if "resume=outputs/RUN" in line:
        assert train_py("model=mlp", *small, "hydra.run.dir=outputs/RUN").returncode == 0
        small = []
    smaller = {"seed=0,1,2": "seed=0", "nudge=0,1,2": "nudge=0", "n_jobs=4": "n_jobs=1 loss=torch,fused"}
    smaller["device=cuda"] = f"device={'cuda' if torch.cuda.is_available() else 'cpu'}"
    for shown, instead in smaller.items():
        line = line.replace(shown, instead)
    result = train_py(*shlex.split(line)[2:], *small)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    is_compared = "-m " in line and ("+experiment=arithmetic" not in line or "compare.by=loss" in line)
    assert list(Path("outputs").glob("*/comparison/report.md" if is_compared else "**/trace.npz"))


@pytest.mark.parametrize("line", OTHERS)
def test_another_command_that_is_shown(line: str) -> None:
    if line.startswith(("make ", "source ")):
        word = line.split()[1]
        expected = (
            rf"^{word}: \$\((TRAIN|DEV|LESSON)\) ##" if line.startswith("make ") else f"^BIN := {Path(word).parent}$"
        )
        assert re.search(expected, (PROJECT / "Makefile").read_text(), re.MULTILINE)
        return
    assert 'eval "$(python train.py -sc install=' in line, f"{line} is not tested"
    shell = "zsh" if "bashcompinit" in line else "bash"
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    script = f"{line.replace('&& compinit', '&& compinit -u')} && complete -p"  # unasked, whoever owns its files
    done = subprocess.run([shell, "-c", script], cwd=PROJECT, env=ENVIRONMENT, capture_output=True)
    assert b"-F hydra_bash_completion python" in done.stdout, done.stderr


@pytest.mark.extra
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


def test_make_compare_is_the_proof_and_tensorboard_is_for_this_machine_alone() -> None:
    dry = ["make", "-n", "compare", "tensorboard", "cuda"]
    shown = subprocess.run(dry, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert ".venv/bin/python train.py -m +experiment=proof" in shown
    assert any(line.endswith("--logdir outputs --host 127.0.0.1 --port 6006") for line in shown)
    assert any(re.fullmatch(r"\S*python3? -m benchmarks\.cuda", line) for line in shown)


@pytest.mark.parametrize("page", [PROJECT / "README.md", YOUR_LOSS], ids=lambda page: page.name)
def test_code_that_proves_your_loss(page: Path) -> None:
    names: dict[str, Any] = {"YourLoss": xent.CrossEntropyLossFromScratch}
    for code in blocks(page, "python"):
        is_older = "linear_cross_entropy" in code and not hasattr(torch.nn.functional, "linear_cross_entropy")
        if not is_older and "import jax" not in code:
            exec(code, names)
    with pytest.raises(AssertionError, match="training is different"):
        exec(blocks(page, "python")[0], {"YourLoss": lambda: lambda z, t: 1.01 * xent.cross_entropy(z, t)})


def test_a_loss_of_jax_is_proved_as_it_is_shown() -> None:
    """In a process of its own: one that has JAX should not be forked, as other tests do."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    (code,) = [code for code in blocks(YOUR_LOSS, "python") if "import jax" in code]
    code = f"from xent.testing import assert_same_learning\n{code}"
    in_float64, in_float32 = (
        subprocess.run([sys.executable, "-c", text], cwd=PROJECT, capture_output=True, text=True)
        for text in (code, code.replace(", True)", ", False)"))
    )
    assert in_float64.returncode == 0, in_float64.stderr
    assert in_float32.stderr.rstrip().endswith("give the dtype that it computes in")


def test_help_names_every_choice_and_those_of_ones_own(tmp_path: Path) -> None:
    result = train_py("--help")
    assert result.returncode == 0 and len(EXAMPLES) >= 10
    assert all(example in result.stdout for example in EXAMPLES)
    for group in ("loss", "model", "data", "optimizer", "experiment"):
        names = ", ".join(sorted(file.stem for file in (PROJECT / "configs" / group).glob("*.yaml")))
        assert f"\n{group}: {names}\n" in result.stdout
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.RMSprop\nlr: 1e-3\n")
    assert "\noptimizer: adam, adamw, mine, sgd\n" in train_py("--config-dir", str(tmp_path), "--help").stdout
    assert "\non_nonfinite: stop\n" in result.stdout, "every setting is shown"
    assert max(len(line) for line in result.stdout.splitlines() if not line.startswith("loss/impostor")) <= 120


def test_the_shell_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the functions ask that `-sc install=bash` defines."""
    for typed, completed in {"loss=scr": "loss=scratch", "optimizer.mom": "optimizer.momentum="}.items():
        line = f"python train.py {typed}"
        for name, value in {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "2"}.items():
            monkeypatch.setenv(name, value)
        assert train_py("-sc", "query=bash").stdout.split() == [completed]


def test_every_room_is_packaged_and_checked_and_contributing_names_it_and_nothing_that_is_not_there() -> None:
    rooms = {f"xent.{file.parent.name}" for file in (PROJECT / "xent").glob("*/__init__.py")}
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]
    assert set(tools["setuptools"]["packages"]) == {"xent", *rooms}
    (layers,) = (each["layers"] for each in tools["importlinter"]["contracts"] if each["type"] == "layers")
    assert set(layers) == {*rooms, "xent.compare"}
    page, makefile = CONTRIBUTING.read_text(), (PROJECT / "Makefile").read_text()
    named = re.findall(r"^(\S+?)/? {2,}\S", page.split("```")[3], re.MULTILINE)
    assert {room.replace(".", "/") for room in rooms} < set(named)
    for place in (*named, *re.findall(r"\| `(\S+?)`", page)):
        assert (PROJECT / place).exists(), place
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\S+)", page, re.MULTILINE))


def test_make_clean_removes_what_runs_left_if_one_says_so(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "run").mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    for answer, is_left in (("n", True), ("", True), ("y", False)):
        make = ["make", "-f", str(PROJECT / "Makefile"), "clean"]
        done = subprocess.run(make, cwd=tmp_path, input=f"{answer}\n", capture_output=True, text=True, check=True)
        assert "remove all of it? [y/N]" in done.stdout
        assert (tmp_path / "outputs" / "run").exists() is is_left
    assert (tmp_path / ".venv").exists(), "which is make clean-env's"


def test_what_contributing_says_how_to_add_is_added_in_a_copy_of_the_project_and_trains(tmp_path: Path) -> None:
    for name in ("xent", "configs"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    shutil.copy(PROJECT / "train.py", tmp_path)
    imports = "import torch\nfrom torch import Tensor, nn\nfrom xent.losses.scratch import cross_entropy\n"
    assert len(files(CONTRIBUTING)) == 6
    for name, code in files(CONTRIBUTING):
        file, new = tmp_path / name, imports if name.endswith(".py") else ""
        before = file.read_text() if file.exists() else new
        assigned = code.startswith("NAMES = ")
        file.write_text(re.sub(r"^NAMES = .*\n", code, before, flags=re.MULTILINE) if assigned else before + code)
    published = write_mnist(tmp_path / "data", "KMNIST")
    with (tmp_path / "xent" / "training" / "datasets.py").open("a") as file:  # where archives are checked
        file.write(f"\ntorchvision.datasets.KMNIST.resources = {published['resources']}\n")
    overrides = ["loss=poly", "model=linear", "data=kmnist", "batch_size=50", "max_steps=3"]
    result = command("train.py", *overrides, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("outputs/*/trace.npz"))
