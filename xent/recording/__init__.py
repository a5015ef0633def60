"""What a training leaves for comparison, anyone's or ours: it needs torch and numpy alone."""

from xent.recording.errors import BadInput
from xent.recording.recorder import Recorder

__all__ = ["BadInput", "Recorder"]
