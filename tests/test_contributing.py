"""CONTRIBUTING.md: what it says how to add is added in a copy of the project, and trains."""

import re
import shutil
from pathlib import Path

from tests.helpers.commands import PROJECT, command
from tests.helpers.published_files import write_mnist

PAGE = (PROJECT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROOMS = re.findall(r"^(\S+?)/? {2,}\S", PAGE.split("```")[3], re.MULTILINE)
IMPORTS = "import torch\nfrom torch import Tensor, nn\nfrom xent.losses.scratch import cross_entropy\n"


def test_a_loss_a_model_and_a_data_set_that_are_added_train(tmp_path: Path) -> None:
    for name in ("xent", "configs"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    shutil.copy(PROJECT / "train.py", tmp_path)
    assert len(BLOCKS) == 6
    for name, code in BLOCKS:
        file = tmp_path / name
        if assigned := re.match(r"NAMES = .*\n", code):
            file.write_text(re.sub(r"^NAMES = .*\n", assigned[0], file.read_text(), flags=re.MULTILINE))
        elif file.exists():
            file.write_text(file.read_text() + code)
        else:
            file.write_text((IMPORTS if file.suffix == ".py" else "") + code)
    published = write_mnist(tmp_path / "data", "KMNIST")
    with (tmp_path / "xent" / "training" / "datasets.py").open("a") as file:  # where archives are checked
        file.write(f"\ntorchvision.datasets.KMNIST.resources = {published['resources']}\n")
    overrides = ["loss=poly", "model=linear", "data=kmnist", "batch_size=50", "max_steps=3"]
    result = command("train.py", *overrides, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("outputs/*/trace.npz"))


def test_the_page_names_every_room_and_command_that_there_is() -> None:
    rooms = {f"xent/{path.parent.name}" for path in (PROJECT / "xent").glob("*/__init__.py")}
    assert rooms < set(ROOMS)
    assert all((PROJECT / room).exists() for room in ROOMS)
    makefile = (PROJECT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\S+)", PAGE, re.MULTILINE))
    for place in re.findall(r"\| `(\S+?)`", PAGE):
        assert (PROJECT / place).exists(), place
