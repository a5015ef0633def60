"""Whether nudged runs measure rounding: a nudge must change that, and nothing else."""

import torch

from xent.recording.errors import BadInput
from xent.verdict.floor import bitwise_identical, output_gaps
from xent.verdict.matching import Pair, given_otherwise

FAR = {torch.float64: 1e-7}  # after the first step; more than the rounding of any training
FAR_IF_COARSER = 0.5  # Adam's first step is of full length, also along a gradient that is rounding alone


def check_nudged(pair: Pair, dtype: torch.dtype) -> None:
    """BadInput if a nudged run differs from the one that is not by nothing, or by more than rounding does.

    Otherwise the floor would be any number, and the verdict as well.

    Args:
        dtype: the precision in which the outputs, or the losses, are computed.
    """
    plain = pair.unnudged
    for nudged in pair.nudged:
        if other := given_otherwise(nudged, plain):
            raise BadInput(
                f"{nudged.name} was given {other} than {plain.name}, from which it differs in the nudge alone: "
                "draw weights and batches from the seed, before the nudge"
            )
        if bitwise_identical(nudged, plain):
            raise BadInput(
                f"{nudged.name} is bitwise identical to {plain.name}, so its nudge changed nothing: call "
                "nudge(model) of the recorder before the first step, and train on what its reorder() returns"
            )
        step, gap = next(each for each in output_gaps(nudged, plain).items() if each[0] > 0)
        if gap > FAR.get(dtype, FAR_IF_COARSER):
            raise BadInput(
                f"{nudged.name} is {gap:.0e} from {plain.name} after step {step}, more than rounding: something random "
                "does not follow from the seed alone, dropout say, which must be off; or the learning rate is too large"
            )
