"""Does training with your cross entropy behave as training with PyTorch's?"""

from xent.losses.article import ArticleCrossEntropyLoss
from xent.losses.fused import FusedCrossEntropyLoss, fused_cross_entropy
from xent.losses.scratch import CrossEntropyLossFromScratch, cross_entropy

__all__ = [
    "ArticleCrossEntropyLoss",
    "CrossEntropyLossFromScratch",
    "FusedCrossEntropyLoss",
    "cross_entropy",
    "fused_cross_entropy",
]
