"""CONTRIBUTING.md: what it says how to add is added in a copy of the project, and trains."""

import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.commands import PROJECT, command
from tests.helpers.published_files import write_mnist

PAGE = (PROJECT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROOMS = re.findall(r"^(\S+?)/? {2,}\S", PAGE.split("```")[3], re.MULTILINE)
IMPORTS = "import torch\nfrom torch import Tensor, nn\nfrom xent.losses.scratch import cross_entropy\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which every block stands where it says."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("xent", "configs", "train.py"):
        (shutil.copytree if (PROJECT / name).is_dir() else shutil.copy)(PROJECT / name, copy / name)
    for name, code in BLOCKS:
        file = copy / name
        if assigned := re.match(r"NAMES = .*\n", code):
            file.write_text(re.sub(r"^NAMES = .*\n", assigned[0], file.read_text(), flags=re.MULTILINE))
        elif file.exists():
            file.write_text(file.read_text() + code)
        else:
            file.write_text((IMPORTS if file.suffix == ".py" else "") + code)
    published = write_mnist(copy / "data", "KMNIST")
    with (copy / "xent" / "training" / "datasets.py").open("a") as file:  # which checks archives by what was published
        file.write(f"\ntorchvision.datasets.KMNIST.resources = {published['resources']}\n")
    return copy


@pytest.mark.parametrize("added", ["loss=poly", "model=linear", "data=kmnist"])
def test_what_is_added_trains(added: str, project: Path) -> None:
    given = {"loss": "torch", "model": "mlp", "data": "kmnist"} | dict([added.split("=")])
    overrides = [f"{key}={value}" for key, value in given.items()]
    result = command("train.py", *overrides, "batch_size=50", "max_steps=3", cwd=project, PYTHONPATH=str(project))
    assert result.returncode == 0, result.stderr


def test_the_page_names_every_room_and_command_that_there_is() -> None:
    assert len(BLOCKS) == 6
    rooms = {f"xent/{path.parent.name}" for path in (PROJECT / "xent").glob("*/__init__.py")}
    assert rooms < set(ROOMS)
    assert all((PROJECT / room).exists() for room in ROOMS)
    makefile = (PROJECT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\S+)", PAGE, re.MULTILINE))
    for place in re.findall(r"\| `(\S+?)`", PAGE):
        assert (PROJECT / place).exists(), place
