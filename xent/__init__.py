"""Does training with your cross entropy behave as training with PyTorch's?"""

from xent.losses.article import CrossEntropyLossFromScratch
from xent.losses.fused import FusedCrossEntropyLoss, fused_cross_entropy
from xent.losses.scratch import CrossEntropyLoss, cross_entropy

__all__ = [
    "CrossEntropyLoss",
    "CrossEntropyLossFromScratch",
    "FusedCrossEntropyLoss",
    "cross_entropy",
    "fused_cross_entropy",
]
