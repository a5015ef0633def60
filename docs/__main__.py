"""Write every figure and picture of docs/ anew, and the README's verdict: python -m docs

The pages of TensorBoard too, where there is a browser.
"""

import shutil
import subprocess
import sys

from docs import notebook, terminal
from docs.cross_entropy import DOCS, PROOF, renewed
from docs.pictures import DPI, PICTURES

WHERE = ["loss=torch,impostor/gradient_scaled", "nudge=0,1,2", "model=mlp", "precision=float64"]
WHERE += ["max_steps=32", "where=1"]  # as docs/where.md has it


def main() -> None:
    notebook.PAGE.write_text(renewed(notebook.PAGE.read_text()))
    notebook.main()
    for name, draw in PICTURES.items():
        draw().savefig(DOCS / name, dpi=DPI)
    shutil.rmtree(PROOF, ignore_errors=True)
    proof = [sys.executable, "train.py", "-m", "+experiment=proof", f"hydra.sweep.dir={PROOF}"]
    terminal.picture(proof, "make compare").savefig(DOCS / "terminal.png", dpi=DPI)
    readme = DOCS.parent / "README.md"
    readme.write_text(renewed(readme.read_text()))
    shutil.copy(PROOF / "comparison" / "curves.png", DOCS)
    captured = [*proof[:3], *WHERE, f"hydra.sweep.dir={PROOF}_where"]
    subprocess.run(captured, cwd=DOCS.parent, check=True)
    shutil.copy(f"{PROOF}_where/comparison/where.png", DOCS)
    browser = [sys.executable, "-m", "pytest", "tests/test_browser.py", "-rs", f"--screenshots={DOCS}"]
    subprocess.run(browser, cwd=DOCS.parent, check=True)


if __name__ == "__main__":
    main()
