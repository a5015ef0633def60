"""The record of a training, anyone's or ours, for comparison. Needs torch and numpy alone."""

from xent.recording.errors import BadInput, Stopped
from xent.recording.recorder import Recorder

__all__ = ["BadInput", "Recorder", "Stopped"]
