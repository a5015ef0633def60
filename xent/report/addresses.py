"""Print where TensorBoard shows curves and verdicts: python -m xent.report.addresses OUTPUTS PORT"""

import re
import sys
from pathlib import Path
from urllib.parse import quote

MOST = 40  # runs that match the filter of an address; of more, TensorBoard ticks none


def addresses(outputs: Path, port: str) -> list[str]:
    """The addresses of TensorBoard's pages, one of curves and one of verdicts, in lines.

    They show all comparisons in a folder, or the newest alone if TensorBoard would tick none of so many.
    """
    verdicts = [*outputs.glob("*/verdict.json"), *outputs.glob("*/comparison/verdict.json")]
    newest = max(verdicts, key=lambda file: file.stat().st_mtime, default=outputs / "comparison").parent
    name = re.sub(r"[\\^$|?*+()\[\]{}]", r"\\\g<0>", str(newest.relative_to(outputs)))
    curves = {file.parent for verdict in verdicts for file in verdict.parent.rglob("events.out.tfevents.*")}
    of_curves, of_verdicts = (quote(name if len(runs) > MOST else "comparison") for runs in (curves, verdicts))
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
