import math

import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.trace import Trace
from xent.verdict.floor import loss_gaps, output_gaps
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import pairs


def judged(*runs: Trace) -> Judgement:
    (found,) = judge(pairs(list(runs)))
    return found


def test_the_gap_is_the_relative_distance_of_the_probes() -> None:
    assert output_gaps(run("scratch", shift=0.25), run("torch")) == {0: 0, 1: 0.25, 2: 0.25, 4: 0.25}


def test_the_gap_of_the_losses_is_that_from_one_probe_step_to_the_next() -> None:
    candidate, reference = run("scratch"), run("torch")
    candidate.losses[2] += 0.5  # of step 3, so in the span that ends at step 4
    distance = 0.5 / torch.linalg.vector_norm(reference.losses[2:4]).item()
    assert loss_gaps(candidate, reference) == {1: 0, 2: 0, 4: pytest.approx(distance)}


def test_floor_and_margin_are_those_of_the_definition() -> None:
    found = judged(*nudged(1e-14, 1e-12), run("scratch", shift=1e-12)).outputs
    assert found.floor == {step: pytest.approx(1e-13, rel=0.05) for step in (1, 2, 4)}
    assert found.floor_range[2] == [pytest.approx(1e-14, rel=0.05), pytest.approx(1e-12, rel=0.05)]
    assert found.margin == pytest.approx(1, abs=0.02)
    assert found.noise == pytest.approx(2, abs=0.02), "1e-12 against 1e-14"
    assert found.gap[4] == pytest.approx(1e-12, rel=0.05)
    assert judged(*nudged(1e-14, 1e-12), run("scratch", shift=1e-12)).verdict is Verdict.SAME


def test_beyond_the_limit_and_every_nudged_run_is_different() -> None:
    found = judged(*nudged(1e-14, 1e-14), run("scratch", shift=1e-11))
    assert (found.verdict, found.left_floor) == (Verdict.DIFFERENT, 1)
    assert judged(*nudged(1e-14, 1e-14), run("scratch", shift=5e-13)).verdict is Verdict.SAME
    found = judged(*nudged(1e-15, 1e-11), run("scratch", shift=1e-10))
    assert found.verdict is Verdict.SAME, "nudged runs reach as far"


def test_the_step_at_which_the_gap_left_the_floor() -> None:
    candidate = run("scratch", shift=1e-14)
    candidate.probes[2] *= 1.1
    candidate.probes[4] *= 1.1
    assert judged(*nudged(1e-14, 1e-14), candidate).left_floor == 2


def test_a_mistake_that_is_made_late_is_not_averaged_away() -> None:
    candidate = run("scratch", shift=1e-14, steps=128)
    candidate.probes[128] *= 1.1
    found = judged(*nudged(1e-14, 1e-14, steps=128), candidate)
    assert (found.verdict, found.left_floor) == (Verdict.DIFFERENT, 128)
    assert found.outputs.margin == pytest.approx(13 / math.sqrt(8), abs=0.1), "one of eight probe steps"


def test_seeds_and_nudges_are_averaged_and_narrow_the_limit() -> None:
    runs = [each for seed in range(4) for each in (*nudged(1e-14, 1e-14, seed=seed), run("scratch", 5e-13, seed=seed))]
    found = judged(*runs)
    assert (len(found.pairs), found.limit) == (4, 1)
    assert found.verdict is Verdict.DIFFERENT, "1.7 decades over four seeds, where one seed allows 2"


def test_candidates_losses_and_precisions_are_judged_apart() -> None:
    runs = [*nudged(1e-14), *nudged(1e-7, precision="float32"), run("a"), run("b"), run("a", precision="float32")]
    found = judge(pairs(runs))
    assert [(each.settings["loss"], each.settings["precision"]) for each in found] == [
        ("a", "float64"),
        ("b", "float64"),
        ("a", "float32"),
    ]


def in_both(coarse: float, fine: float, **more: float) -> dict[str, Judgement]:
    """The judgements of a candidate that is so far off in float32 and in float64, where nudges reach 1e-6 and 1e-15."""
    runs = [*nudged(1e-6, 1e-6, precision="float32"), run("scratch", shift=coarse, precision="float32", **more)]
    runs += [*nudged(1e-15, 1e-15), run("scratch", shift=fine, **more)]
    return {each.settings["precision"]: each for each in judge(pairs(runs))}


def test_what_shrinks_with_the_precision_is_coarser_rounding() -> None:
    found = in_both(coarse=1e-3, fine=1e-12)  # a thousand times the floor in both
    assert {each.verdict for each in found.values()} == {Verdict.COARSER}
    assert 10 ** found["float32"].outputs.early == pytest.approx(1000, rel=0.1)
    found = in_both(coarse=1e-3, fine=1e-15)
    assert (found["float32"].verdict, found["float64"].verdict) == (Verdict.COARSER, Verdict.SAME)


def test_what_does_not_shrink_is_a_mistake() -> None:
    for size in (1e-3, 1e-8, 1e-12):
        found = in_both(coarse=max(size, 1e-6), fine=size)
        assert found["float64"].verdict is Verdict.DIFFERENT, size
        assert (found["float32"].verdict is Verdict.DIFFERENT) == (size > 1e-6), "below, float32 hides it"


@pytest.mark.parametrize(("floor", "broken", "steps"), [(1e-6, 0.5, (8, 16, 32, 64)), (1e-3, math.nan, (64,))])
def test_a_candidate_that_breaks_in_float32_alone_is_different(
    floor: float, broken: float, steps: tuple[int, ...]
) -> None:
    candidate = run("scratch", shift=floor, precision="float32", steps=64)
    for step in steps:
        candidate.probes[step] *= 1 + broken
    coarse = [*nudged(floor, floor, precision="float32", steps=64), candidate]
    found = judge(pairs([*coarse, *nudged(1e-15, 1e-15), run("scratch", shift=1e-15)]))
    assert [each.verdict for each in found] == [Verdict.DIFFERENT, Verdict.SAME]


def test_precisions_that_are_compared_do_not_explain_each_other() -> None:
    candidates = [run("torch", shift=0.9, precision=precision) for precision in ("float32", "float64")]
    references = nudged(0.05, 0.05, precision="bfloat16")
    found = judge(pairs([*references, *candidates], by="precision", reference="bfloat16"))
    assert [each.other_precision for each in found] == [None, None]


def test_a_loss_in_a_precision_of_its_own_does_not_explain_the_loss_that_is_in_that_of_the_run() -> None:
    own = {"precision": "float64", "loss_precision": "float32"}
    fine = [*nudged(1e-7, 1e-7, **own), run("scratch", 1e-4, **own)]
    coarse = [*nudged(1e-6, 1e-6, precision="float32", loss_precision="float32")]
    coarse += [run("scratch", 1e-3, precision="float32", loss_precision="float32")]
    found = judge(pairs([*fine, *coarse]))
    assert [each.verdict for each in found] == [Verdict.DIFFERENT, Verdict.DIFFERENT]
    assert [each.other_precision for each in found] == [None, None]


def test_values_of_a_loss_are_as_coarse_as_the_coarser_of_run_and_loss() -> None:
    """An equal value is a gap of a tenth of that, beside a floor that nudges made."""

    def gap(precision: str, loss_precision: str, floor: float = 1e-5) -> float:
        settings = {"precision": precision, "loss_precision": loss_precision}
        above = judged(*nudged(floor, floor, **settings), run("scratch", shift=1e-3, loss_shift=0, **settings))
        return above.losses.above[1]

    assert gap("float64", "float64", floor=1e-8) == pytest.approx(-8.65, abs=0.1)
    for precisions in (("float64", "float32"), ("float32", "float32"), ("float32", "float64")):
        assert gap(*precisions) == pytest.approx(-2.92, abs=0.1)


def test_one_precision_alone_cannot_tell_coarse_rounding_from_a_mistake() -> None:
    alone = judged(*nudged(1e-7, 1e-7, precision="float32"), run("scratch", shift=1e-4, precision="float32"))
    assert (alone.verdict, alone.other_precision) == (Verdict.DIFFERENT, None)


def test_a_precision_without_a_floor_tells_nothing_of_the_other() -> None:
    coarse = [*nudged(1e-6, 1e-6, precision="float32"), run("scratch", shift=1e-3, precision="float32")]
    verdicts = [each.verdict for each in judge(pairs([*coarse, run("torch"), run("scratch", shift=1e-12)]))]
    assert verdicts == [Verdict.DIFFERENT, Verdict.NO_FLOOR]


def test_a_loss_of_other_values_is_told_from_one_that_trains_otherwise() -> None:
    found = judged(*nudged(1e-14, 1e-14), run("scratch", shift=1e-14, loss_shift=1e-9))
    assert (found.verdict, found.left_floor) == (Verdict.OTHER_VALUES, 1)
    assert judged(*nudged(1e-14, 1e-14), run("scratch", 1e-14, loss_shift=1e-13)).verdict is Verdict.SAME
    assert judged(*nudged(1e-14, 1e-14), run("scratch", 1e-9, loss_shift=1e-9)).verdict is Verdict.DIFFERENT
    assert judged(*nudged(1e-14, 1e-14), run("scratch", 1e-14, loss_shift=math.nan)).verdict is Verdict.OTHER_VALUES


def test_values_that_are_coarse_in_both_precisions_are_rounding_too() -> None:
    runs = [*nudged(1e-7, 1e-7, precision="float32"), run("scratch", 1e-7, precision="float32", loss_shift=1e-4)]
    runs += [*nudged(1e-15, 1e-15), run("scratch", 1e-15, loss_shift=1e-12)]
    assert {each.verdict for each in judge(pairs(runs))} == {Verdict.SAME}


def test_equal_runs_are_bitwise_identical_and_one_bit_is_not() -> None:
    found = judged(*nudged(1e-9, 1e-9), run("scratch"))
    assert (found.verdict, set(found.outputs.gap.values())) == (Verdict.IDENTICAL, {0.0})
    other = run("scratch")
    other.losses[1] = torch.nextafter(other.losses[1], torch.tensor(9.0).double())
    assert judged(run("torch"), other).verdict is Verdict.NO_FLOOR
    other = run("scratch")
    other.probes[2][3, 1] = torch.nextafter(other.probes[2][3, 1], torch.tensor(9.0).double())
    assert judged(run("torch"), other).verdict is Verdict.NO_FLOOR


def test_without_nudged_runs_there_is_no_floor() -> None:
    found = judged(run("torch"), run("scratch", shift=0.1))
    assert (found.verdict, found.outputs.floor) == (Verdict.NO_FLOOR, {})
    assert math.isnan(found.outputs.margin) and math.isnan(found.losses.margin)


def test_a_candidate_that_became_nan_is_different() -> None:
    found = judged(*nudged(1e-14, 1e-14), run("scratch", shift=math.nan))
    assert found.verdict is Verdict.DIFFERENT
    assert math.isfinite(found.outputs.margin)


def test_a_gap_of_zero_counts_as_a_tenth_of_the_precision() -> None:
    found = judged(*nudged(1e-14, 1e-14), run("scratch"), run("scratch", shift=1e-3, nudge=1))
    assert found.outputs.gap[1] == pytest.approx(math.sqrt(2.2e-17 * 1e-3), rel=0.05)
