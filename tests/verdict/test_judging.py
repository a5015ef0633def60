import math

import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.training.trace import Trace
from xent.verdict.judging import Judgement, Verdict, gaps, judge
from xent.verdict.matching import pairs


def judged(*runs: Trace) -> Judgement:
    (found,) = judge(pairs(list(runs)))
    return found


def test_the_gap_is_the_relative_distance_of_the_probe_logits() -> None:
    assert gaps(run("scratch", shift=0.25), run("torch")) == {0: 0, 1: 0.25, 2: 0.25, 4: 0.25}


def test_floor_and_margin_are_those_of_the_definition() -> None:
    found = judged(*nudged(1e-14, 1e-12), run("scratch", shift=1e-12))
    assert found.floor == {step: pytest.approx(1e-13, rel=0.05) for step in (1, 2, 4)}
    assert found.floor_range[2] == (pytest.approx(1e-14, rel=0.05), pytest.approx(1e-12, rel=0.05))
    assert found.margin == pytest.approx(1, abs=0.02)
    assert found.noise == pytest.approx(2, abs=0.02), "1e-12 against 1e-14"
    assert found.gap[4] == pytest.approx(1e-12, rel=0.05)
    assert found.verdict is Verdict.SAME


def test_beyond_the_limit_and_every_nudged_run_is_different() -> None:
    found = judged(*nudged(1e-14, 1e-14), run("scratch", shift=1e-11))
    assert (found.verdict, found.left_floor) == (Verdict.DIFFERENT, 1)
    assert judged(*nudged(1e-14, 1e-14), run("scratch", shift=5e-13)).verdict is Verdict.SAME
    found = judged(*nudged(1e-15, 1e-11), run("scratch", shift=1e-10))
    assert found.verdict is Verdict.SAME, "nudged runs reach as far"


def test_the_step_at_which_the_gap_left_the_floor() -> None:
    candidate = run("scratch", shift=1e-14)
    candidate.probe_logits[2] *= 1.1
    candidate.probe_logits[4] *= 1.1
    assert judged(*nudged(1e-14, 1e-14), candidate).left_floor == 2


def test_seeds_and_nudges_are_averaged_and_narrow_the_limit() -> None:
    runs = [each for seed in range(4) for each in (*nudged(1e-14, 1e-14, seed=seed), run("scratch", 5e-13, seed=seed))]
    found = judged(*runs)
    assert len(found.pairs) == 4
    assert found.verdict is Verdict.DIFFERENT, "1.7 decades over four seeds, where one seed allows 2"


def test_candidates_losses_and_precisions_are_judged_apart() -> None:
    runs = [*nudged(1e-14), *nudged(1e-7, precision="float32"), run("a"), run("b"), run("a", precision="float32")]
    found = judge(pairs(runs))
    assert [(each.settings["loss"], each.settings["precision"]) for each in found] == [
        ("a", "float64"),
        ("b", "float64"),
        ("a", "float32"),
    ]


def test_equal_runs_are_bitwise_identical_and_one_bit_is_not() -> None:
    found = judged(*nudged(1e-7, 1e-7), run("scratch"))
    assert (found.verdict, found.margin, set(found.gap.values())) == (Verdict.IDENTICAL, None, {0.0})
    other = run("scratch")
    other.losses[1] = torch.nextafter(other.losses[1], torch.tensor(9.0).double())
    assert judged(run("torch"), other).verdict is Verdict.NO_FLOOR
    other = run("scratch")
    other.probe_logits[2][3, 1] = torch.nextafter(other.probe_logits[2][3, 1], torch.tensor(9.0).double())
    assert judged(run("torch"), other).verdict is Verdict.NO_FLOOR


def test_without_nudged_runs_there_is_no_floor() -> None:
    found = judged(run("torch"), run("scratch", shift=0.1))
    assert (found.verdict, found.margin, found.floor) == (Verdict.NO_FLOOR, None, {})


def test_a_candidate_that_became_nan_is_different() -> None:
    found = judged(*nudged(1e-14, 1e-14), run("scratch", shift=math.nan))
    assert found.verdict is Verdict.DIFFERENT
    assert found.margin is not None and math.isfinite(found.margin)


def test_a_gap_of_zero_counts_as_a_tenth_of_the_precision() -> None:
    found = judged(*nudged(1e-14, 1e-14), run("scratch"), run("scratch", shift=1e-3, nudge=1))
    assert found.gap[1] == pytest.approx(math.sqrt(2.2e-17 * 1e-3), rel=0.05)
