"""Whether the reference runs are a measure: outputs that training changes, and nudges that change rounding alone."""

import torch

from xent.recording.errors import BadInput
from xent.recording.settings import precision_of
from xent.recording.trace import Trace, learned
from xent.verdict.floor import bitwise_identical
from xent.verdict.matching import Pair, first_mismatch

# The most that a nudge may change the first loss, relatively: it is made before a step has amplified anything.
ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
ROUNDING_OF_HALF_TYPES = 0.1


def check_measure(pair: Pair) -> None:
    """BadInput if the reference runs of a pair tell nothing: the floor, and the verdict, would mean nothing."""
    plain = pair.unnudged
    _check_outputs(plain)
    named = (precision_of(plain.settings, key) for key in ("precision", "loss_precision"))
    dtype = max(filter(None, (plain.first_outputs.dtype, *named)), key=lambda dtype: torch.finfo(dtype).eps)
    limit = ROUNDING.get(dtype, ROUNDING_OF_HALF_TYPES)
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
        first, other = (float(trace.losses[0]) for trace in (plain, nudged))
        if abs(other - first) > limit * abs(first):
            raise BadInput(
                f"the first loss of {nudged.name} is {other:.9g}, that of {plain.name} {first:.9g}, and rounding does "
                f"not explain that in {str(dtype).removeprefix('torch.')}: turn dropout off, seed every random draw, "
                "reorder inputs and targets alike, and give a lower precision as a setting"
            )


def _check_outputs(trace: Trace) -> None:
    first, *_, last = [trace.first_outputs, *trace.probes.values()]
    if learned(trace.losses) and ((torch.equal(first, last) and trace.step > 1) or not last.isfinite().any()):
        raise BadInput(
            f"the outputs of {trace.name} are {'no numbers' if not last.isfinite().any() else 'the same all the time'}"
            ", though its loss falls: probe what training changes, logits say"
        )
