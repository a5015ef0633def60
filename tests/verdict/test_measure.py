import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.verdict.judging import judge
from xent.verdict.matching import pairs

FINGERPRINT = (9.0, 10.0, 100.0, 1.0)
OTHERS = [(8.0, 10.0, 100.0, 1.0), (9.0, 12.0, 100.0, 1.0), (9.0, 10.0, 100.0, 2.0)]


def test_a_nudge_that_changes_nothing_measures_nothing() -> None:
    with pytest.raises(BadInput, match="torch,nudge=2 is bitwise identical to torch,nudge=0, its nudge"):
        judge(pairs([*nudged(1e-15, 0.0), run("scratch", 1e-15)]))


@pytest.mark.parametrize(
    ("precision", "rounding", "more"), [("float64", 1e-9, 1e-7), ("float32", 1e-4, 1e-2), ("bfloat16", 0.01, 0.3)]
)
def test_a_nudge_that_changes_the_first_loss_by_more_than_rounding_is_no_measure(
    precision: str, rounding: float, more: float
) -> None:
    def runs(shift: float) -> list[Trace]:
        return [run("torch", nudge=n, shift=0.01 * n, loss_shift=shift * n, precision=precision) for n in range(3)]

    candidate = run("scratch", 0.01, precision=precision)
    judge(pairs([*runs(rounding), candidate]))
    with pytest.raises(BadInput, match=f"rounding does not explain that in {precision}: turn dropout off"):
        judge(pairs([*runs(more), candidate]))


def test_what_a_training_does_after_its_first_loss_is_its_own() -> None:
    """A bias before batch normalisation has a gradient of rounding alone, of which Adam makes a whole step."""
    nudged_far = [run("torch", nudge=n, shift=0.01 * n, loss_shift=0.0) for n in range(3)]
    judge(pairs([*nudged_far, run("scratch", 1e-15)]))


@pytest.mark.parametrize(("made", "said"), [(0.0, "the same all the time"), (torch.nan, "non-finite")])
def test_outputs_that_training_does_not_change_are_no_measure(made: float, said: str) -> None:
    runs = [*nudged(1e-15, 2e-15), run("scratch", 1e-15)]
    judge(pairs(runs))
    for each in runs:
        each.probes = {step: torch.full((4, 3), made, dtype=torch.float64) for step in each.probes}
    with pytest.raises(BadInput, match=f"the outputs of torch,nudge=0 are {said}, though its loss falls: probe what"):
        judge(pairs(runs))


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    ("name", "said"), [("first weights", "other first weights"), ("batch 8", "another batch at step 8")]
)
def test_nudged_runs_that_were_given_something_else_are_no_measure(
    name: str, said: str, other: tuple[float, float, float, float]
) -> None:
    plain, moved = nudged(1e-15)
    plain.fingerprints, moved.fingerprints = {name: FINGERPRINT}, {name: (9.0, 10.05, 100.0, 1.01)}
    judge(pairs([plain, moved, run("scratch", 1e-15)]))
    moved.fingerprints[name] = other
    with pytest.raises(BadInput, match=f"torch,nudge=1 got {said} than torch,nudge=0"):
        judge(pairs([plain, moved, run("scratch", 1e-15)]))


def test_what_a_candidate_got_otherwise_is_told() -> None:
    references, candidate = nudged(1e-15, 1e-15), run("scratch", 1e-3)
    for each in (*references, candidate):
        each.fingerprints = {"first weights": FINGERPRINT, "batch 1": (9.0, 0.0, torch.inf, 1.0)}
    (found,) = judge(pairs([*references, candidate]))
    assert found.first_mismatch == ""
    candidate.fingerprints["first weights"] = OTHERS[0]
    (found,) = judge(pairs([*references, candidate]))
    assert found.first_mismatch == "other first weights"
