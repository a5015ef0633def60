"""Print where TensorBoard shows curves and verdicts: python -m xent.report.addresses OUTPUTS PORT"""

import re
import sys
from pathlib import Path
from urllib.parse import quote

MOST = 40  # runs that match the filter of an address; of more, TensorBoard ticks none


def newest_first(outputs: Path) -> list[Path]:
    """The folders of all comparisons in a folder, the newest first."""
    verdicts = [*outputs.glob("*/verdict.json"), *outputs.glob("*/comparison/verdict.json")]
    return [file.parent for file in sorted(verdicts, key=lambda file: file.stat().st_mtime, reverse=True)]


def addresses(outputs: Path, port: str) -> list[str]:
    """The addresses of TensorBoard's pages, one of curves and one of verdicts, in lines.

    They show all comparisons in a folder, or the newest alone if TensorBoard would tick none of so many.
    """
    comparisons = newest_first(outputs)
    curves = {file.parent for folder in comparisons for file in folder.rglob("events.out.tfevents.*")}
    newest = str(comparisons[0].relative_to(outputs)) if comparisons else ""
    name = re.sub(r"[\\^$|?*+()\[\]{}]", r"\\\g<0>", newest)
    of_curves, of_verdicts = (quote(name if len(runs) > MOST else "comparison") for runs in (curves, comparisons))
    page = f"http://127.0.0.1:{port}/#"
    lines = [
        f"curves: {page}custom_scalars&_smoothingWeight=0&regexInput={of_curves}",
        f"verdicts: {page}text&regexInput={of_verdicts}$",
    ]
    if len(curves) > MOST:
        lines += ["For curves of an older comparison, type the name of its folder under Runs."]
    return lines


if __name__ == "__main__":
    print(*addresses(Path(sys.argv[1]), sys.argv[2]), sep="\n", flush=True)
