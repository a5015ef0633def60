"""docs/cross-entropy.ipynb: the lesson as a notebook, made of its page, executed, with what its cells print."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DOCS = Path(__file__).parent
PAGE, NOTEBOOK = DOCS / "cross-entropy.md", DOCS / "cross-entropy.ipynb"
SETUP = """import torch
from torch import Tensor, nn
from torch.nn import functional as F

import xent"""
CODE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- \[\[\[.*?\]\]\] -->\n", re.MULTILINE)


def cells() -> list[NotebookNode]:
    """The page in cells: its prose, and its code without what that prints."""
    page = MARK.sub("", PAGE.read_text())
    title, rest = page.split("\n\n", 1)
    found, end = [new_markdown_cell(title), new_code_cell(SETUP)], 0
    for block in CODE.finditer(rest):
        found += [_prose(rest[end : block.start()]), _code(block[1])]
        end = block.end()
    found = [cell for cell in [*found, _prose(rest[end:])] if cell.source]
    for number, cell in enumerate(found):
        cell.id = f"cell-{number}"  # else drawn anew each time
    return found


def _prose(text: str) -> NotebookNode:
    return new_markdown_cell(MATH.sub(r"$$\n\1$$", text).strip())


def _code(source: str) -> NotebookNode:
    """A cell that runs; what is a part of a function, and so does not, is shown as prose."""
    try:
        compile(source, PAGE.name, "exec")
    except SyntaxError:  # a return outside of its function
        return new_markdown_cell(f"```python\n{source}```")
    return new_code_cell(source.rstrip())


def executed() -> NotebookNode:
    """The notebook with the output of every cell. CellExecutionError if one fails."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells(), metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(DOCS.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    nbformat.write(executed(), NOTEBOOK)
