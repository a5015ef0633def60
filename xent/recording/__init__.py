"""The record of a training, anyone's or ours, for comparison. Needs torch and numpy alone."""

from xent.recording.errors import BadInput, Stopped
from xent.recording.float64 import all_in_float64
from xent.recording.loop import record
from xent.recording.recorder import Recorder

__all__ = ["BadInput", "Recorder", "Stopped", "all_in_float64", "record"]
