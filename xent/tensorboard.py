"""What goes to TensorBoard."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # training draws nothing, and importing what could takes a tenth of its start

FINAL = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")  # the metrics of the HParams page


class RunLog:
    """The event file of one run: its settings as text and as hyperparameters, and its scalars."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.last: dict[str, float] = {}  # the newest value of every tag
        self._writer = SummaryWriter(str(folder))
        rows = "".join(f"| `{key}` | `{value}` |\n" for key, value in settings.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)
        # SummaryWriter.add_hparams would write these three to a run of its own; here they belong to this one.
        numbers_or_text = {key: value if type(value) in (int, float) else str(value) for key, value in settings.items()}
        experiment, start, self._end = hparams(numbers_or_text, dict.fromkeys(FINAL, 0.0))
        self._writer._get_file_writer().add_summary(experiment)
        self._writer._get_file_writer().add_summary(start)

    def __enter__(self) -> Self:
        return self

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars by their tags, after so many steps."""
        # One event for all of them: SummaryWriter.add_scalar would make one for each, at eight times the cost.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._writer._get_file_writer().add_summary(Summary(value=values), step)
        self.last |= scalars

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # the run came to its end
            self._writer._get_file_writer().add_summary(self._end)
        self._writer.close()


def write_comparison(folder: Path, curves: dict[str, dict[int, float]], page: str, picture: "Figure") -> None:
    """Curves over the probe steps by their tags, a page and a picture, as the run `comparison` beside the others."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()  # TensorBoard would draw the curves of an earlier comparison with them
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("verdict", page, 0)
        writer.add_figure("curves", picture, close=False)
        for tag, curve in curves.items():
            for step, value in curve.items():
                writer.add_scalar(tag, value, step)
