import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.errors import BadInput
from xent.verdict.judging import judge
from xent.verdict.matching import pairs


def test_a_nudge_that_changes_nothing_measures_nothing() -> None:
    with pytest.raises(BadInput, match="torch,nudge=2 is bitwise identical to torch,nudge=0"):
        judge(pairs([*nudged(1e-15, 0.0), run("scratch", 1e-15)]))


@pytest.mark.parametrize(("precision", "rounding", "more"), [("float64", 1e-8, 1e-6), ("float32", 0.1, 0.9)])
def test_nudged_runs_that_are_further_apart_than_rounding_are_no_measure(
    precision: str, rounding: float, more: float
) -> None:
    candidate = run("scratch", rounding, precision=precision)
    judge(pairs([*nudged(rounding, rounding, precision=precision), candidate]))
    with pytest.raises(BadInput, match="after step 1, further than rounding explains: turn"):
        judge(pairs([*nudged(rounding, more, precision=precision), candidate]))


@pytest.mark.parametrize(
    ("name", "said"), [("first weights", "other first weights"), ("batch 8", "another batch at step 8")]
)
def test_nudged_runs_that_were_given_something_else_are_no_measure(name: str, said: str) -> None:
    plain, moved = nudged(1e-15)
    plain.fingerprints, moved.fingerprints = {name: (10.0, 100.0)}, {name: (10.05, 100.0)}
    judge(pairs([plain, moved, run("scratch", 1e-15)]))
    moved.fingerprints[name] = (12.0, 100.0)
    with pytest.raises(BadInput, match=f"torch,nudge=1 got {said} than torch,nudge=0"):
        judge(pairs([plain, moved, run("scratch", 1e-15)]))


def test_what_a_candidate_was_first_mismatch_is_told() -> None:
    references, candidate = nudged(1e-15, 1e-15), run("scratch", 1e-3)
    for each in (*references, candidate):
        each.fingerprints = {"first weights": (1.0, 4.0), "batch 1": (0.0, torch.inf)}
    (found,) = judge(pairs([*references, candidate]))
    assert found.first_mismatch == ""
    candidate.fingerprints["first weights"] = (2.0, 4.0)
    (found,) = judge(pairs([*references, candidate]))
    assert found.first_mismatch == "other first weights"
