"""The lesson as a notebook: its code runs there, and its output is written into the page and into the .ipynb."""

# mypy: disable-error-code="no-untyped-call"
import re

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from docs.cross_entropy import DOCS

PAGE, NOTEBOOK = DOCS / "cross-entropy.md", DOCS / "cross-entropy.ipynb"
# Code, and what it prints. Code right under a mark is quoted, and does not run by itself.
BLOCK = re.compile(r"(?<! -->\n)^```python\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)


def executed(page: str) -> NotebookNode:
    """Run a page as a notebook.

    Returns:
        a cell of prose or code for every stretch of the page, with its output.

    Raises:
        CellExecutionError: a block of code fails.
    """
    cells = []
    for number, text in enumerate(BLOCK.split(page)):  # prose and code by turns
        if number % 2 == 1:
            cells.append(new_code_cell(text.rstrip()))
        elif prose := MATH.sub(r"$$\n\1$$", MARK.sub("", text)).strip():
            cells.append(new_markdown_cell(prose))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # else drawn anew every time
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook: NotebookNode = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    resources = {"metadata": {"path": str(DOCS.parent)}}
    # One stream a cell, and no times, so that the notebook is the same whenever it runs
    NotebookClient(notebook, timeout=120, coalesce_streams=True, record_timing=False, resources=resources).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version of Python
    return notebook


def printed(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.get("outputs", []) if output.output_type == "stream")


def with_output(page: str, notebook: NotebookNode) -> str:
    """A page with the output of its notebook's cells under its blocks of code."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")

    def block(match: re.Match[str]) -> str:
        output = printed(next(cells))
        return f"```python\n{match[1]}```\n" + (f"\n```text\n{output}```\n" if output else "")

    return BLOCK.sub(block, page)


def main() -> None:
    page = PAGE.read_text()
    notebook = executed(page)
    nbformat.write(notebook, NOTEBOOK)
    PAGE.write_text(with_output(page, notebook))
