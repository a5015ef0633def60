"""Writes every number and picture of docs/ anew, and the README's verdict: python -m docs

The pages of TensorBoard too, where there is a browser.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from cogapp import Cog

from docs import notebook
from docs.cross_entropy import PROOF
from docs.pictures import DPI, PICTURES

DOCS = Path(__file__).parent
PAGE = DOCS / "cross-entropy.md"


def renew(page: Path) -> None:
    """Write what docs/cross_entropy.py prints into a page, in place of what it printed before."""
    Cog().callable_main(["cog", "-r", "-P", "-p", "from docs.cross_entropy import *", "--verbosity=0", str(page)])


def main() -> None:
    renew(PAGE)
    notebook.main()
    for name, draw in PICTURES.items():
        draw().savefig(DOCS / name, dpi=DPI)
    shutil.rmtree(PROOF, ignore_errors=True)
    proof = [sys.executable, "train.py", "-m", "+experiment=proof", f"hydra.sweep.dir={PROOF}"]
    subprocess.run(proof, cwd=DOCS.parent, check=True)
    renew(DOCS.parent / "README.md")
    shutil.copy(PROOF / "comparison" / "curves.png", DOCS)
    browser = [sys.executable, "-m", "pytest", "tests/test_browser.py", "-rs", f"--screenshots={DOCS}"]
    subprocess.run(browser, cwd=DOCS.parent, check=True)


if __name__ == "__main__":
    main()
