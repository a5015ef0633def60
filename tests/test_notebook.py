"""docs/cross-entropy.ipynb: its cells run, and print what is stored there and what the page shows."""

import nbformat
import pytest
from nbformat import NotebookNode

from docs.notebook import NOTEBOOK, PAGE, executed, printed, with_output


@pytest.fixture(scope="module")
def notebook() -> NotebookNode:
    return executed(PAGE.read_text())


def test_it_is_what_is_stored(notebook: NotebookNode) -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [(c.cell_type, c.source) for c in notebook.cells]
    assert [printed(cell) for cell in stored.cells] == [printed(cell) for cell in notebook.cells]


def test_it_has_the_code_of_the_page_and_prints_what_stands_there(notebook: NotebookNode) -> None:
    page = PAGE.read_text()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 14
    for cell in code:
        assert f"```python\n{cell.source}\n" in page
        assert not printed(cell) or f"```text\n{printed(cell)}```" in page
    assert with_output(page, notebook) == page
    assert not any("<!--" in cell.source or "```math" in cell.source for cell in notebook.cells)


def test_output_that_is_out_of_date_is_replaced() -> None:
    page = "# A page\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\nProse.\n\n```python\nx = 1\n```\n"
    fresh = with_output(page, executed(page))
    assert fresh == page.replace("3", "2")
