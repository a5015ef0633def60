"""Whether nudged runs measure rounding: a nudge must change that, and nothing else."""

import torch

from xent.recording.errors import BadInput
from xent.verdict.floor import bitwise_identical, output_gaps
from xent.verdict.matching import Pair, first_mismatch


def check_nudged(pair: Pair, dtype: torch.dtype) -> None:
    """BadInput if a nudged run equals the one that is not nudged, or is further from it than rounding explains.

    The floor would mean nothing then, and neither would the verdict.

    Args:
        dtype: the precision in which the outputs, or the losses, are computed.
    """
    # Adam's first step is of full length also along a gradient that is rounding alone.
    limit = 1e-7 if dtype == torch.float64 else 0.5
    plain = pair.unnudged
    for nudged in pair.nudged:
        if mismatch := first_mismatch(nudged, plain):
            raise BadInput(
                f"{nudged.name} got {mismatch} than {plain.name}, and they must differ in the nudge alone: "
                "draw weights and batches from the seed, then nudge the model"
            )
        if bitwise_identical(nudged, plain):
            raise BadInput(
                f"{nudged.name} is bitwise identical to {plain.name}, its nudge changed nothing: call nudge(model) of "
                "the recorder before the first step, and train on what its reorder() returns"
            )
        step, gap = next((step, gap) for step, gap in output_gaps(nudged, plain).items() if step > 0)
        if gap > limit:
            raise BadInput(
                f"{nudged.name} is {gap:.0e} from {plain.name} after step {step}, further than rounding explains: turn "
                "dropout off, seed every other random draw, or lower the learning rate"
            )
