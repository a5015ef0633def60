"""The proof as one line in anyone's tests, of a loss and of a training."""

from xent.testing.from_numpy import from_numpy
from xent.testing.same_learning import assert_same_learning
from xent.testing.same_training import assert_same_training
from xent.testing.trained import Kept

__all__ = ["Kept", "assert_same_learning", "assert_same_training", "from_numpy"]
