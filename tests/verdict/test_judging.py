import math

import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.trace import Trace
from xent.verdict.floor import loss_gaps, output_gaps
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import pairs

FLOOR = nudged(1e-14, 1e-14)


def judged(*runs: Trace) -> Judgement:
    (judgement,) = judge(pairs(list(runs)))
    return judgement


def verdicts_of(*runs: Trace) -> list[Verdict]:
    return [judgement.verdict for judgement in judge(pairs(list(runs)))]


def test_the_gap_is_the_relative_distance_of_the_probes_or_of_the_losses_between_them() -> None:
    assert output_gaps(run("scratch", shift=0.25), run("torch")) == {0: 0, 1: 0.25, 2: 0.25, 4: 0.25}
    candidate, reference = run("scratch"), run("torch")
    candidate.losses[2] += 0.5  # of step 3, so in the span that ends at step 4
    distance = 0.5 / torch.linalg.vector_norm(reference.losses[2:4]).item()
    assert loss_gaps(candidate, reference) == {1: 0, 2: 0, 4: pytest.approx(distance)}


def test_floor_and_margin_are_those_of_the_definition() -> None:
    judgement = judged(*nudged(1e-14, 1e-12), run("scratch", shift=1e-12))
    outputs = judgement.outputs
    assert outputs.floor == {step: pytest.approx(1e-13, rel=0.05) for step in (1, 2, 4)}
    assert outputs.floor_range[2] == [pytest.approx(1e-14, rel=0.05), pytest.approx(1e-12, rel=0.05)]
    assert outputs.margin == pytest.approx(1, abs=0.02)
    assert outputs.noise == pytest.approx(2, abs=0.02), "1e-12 against 1e-14"
    assert outputs.gap[4] == pytest.approx(1e-12, rel=0.05)
    assert judgement.verdict is Verdict.SAME


def test_beyond_the_limit_and_every_nudged_run_is_different() -> None:
    judgement = judged(*FLOOR, run("scratch", shift=1e-11))
    assert (judgement.verdict, judgement.left_floor) == (Verdict.DIFFERENT, 1)
    assert verdicts_of(*FLOOR, run("scratch", shift=5e-13)) == [Verdict.SAME]
    assert verdicts_of(*nudged(1e-15, 1e-11), run("scratch", shift=1e-10)) == [Verdict.SAME], "nudged runs reach as far"


def test_a_mistake_that_is_made_late_is_not_averaged_away() -> None:
    candidate = run("scratch", shift=1e-14)
    candidate.probes[2] *= 1.1
    candidate.probes[4] *= 1.1
    assert judged(*FLOOR, candidate).left_floor == 2
    candidate = run("scratch", shift=1e-14, steps=128)
    candidate.probes[128] *= 1.1
    judgement = judged(*nudged(1e-14, 1e-14, steps=128), candidate)
    assert (judgement.verdict, judgement.left_floor) == (Verdict.DIFFERENT, 128)
    assert judgement.outputs.margin == pytest.approx(13 / math.sqrt(8), abs=0.1), "one of eight probe steps"
    candidate = run("scratch", shift=1e-14)
    candidate.probes[4] = run("scratch", shift=3e-14).probes[4]
    margin = math.log10(3) / math.sqrt(3)
    assert judged(*FLOOR, candidate).outputs.margin == pytest.approx(margin, abs=0.03), "below the limit too"


def test_seeds_and_nudges_are_averaged_and_narrow_the_limit() -> None:
    references = [trace for seed in range(4) for trace in nudged(1e-14, 1e-14, seed=seed)]
    judgement = judged(*references, *(run("scratch", 5e-13, seed=seed) for seed in range(4)))
    assert (len(judgement.pairs), judgement.limit) == (4, 1)
    assert judgement.verdict is Verdict.DIFFERENT, "1.7 decades over four seeds, where one seed allows 2"


def test_candidates_losses_and_precisions_are_judged_apart() -> None:
    runs = [*nudged(1e-14), *nudged(1e-7, precision="float32"), run("a"), run("b"), run("a", precision="float32")]
    candidates = [judgement.settings for judgement in judge(pairs(runs))]
    expected = [("a", "float64"), ("b", "float64"), ("a", "float32")]
    assert [(settings["loss"], settings["precision"]) for settings in candidates] == expected


COARSE, FINE = nudged(1e-6, 1e-6, precision="float32"), nudged(1e-15, 1e-15)


def in_both(coarse: float, fine: float) -> list[Judgement]:
    """The judgements of a candidate that is so far off in float32 and in float64."""
    return judge(pairs([*COARSE, run("scratch", coarse, precision="float32"), *FINE, run("scratch", fine)]))


def test_what_shrinks_with_the_precision_is_coarser_rounding_and_what_does_not_is_a_mistake() -> None:
    coarse, fine = in_both(coarse=1e-3, fine=1e-12)  # a thousand times the floor in both
    assert (coarse.verdict, fine.verdict) == (Verdict.COARSER, Verdict.COARSER)
    assert 10**coarse.outputs.early == pytest.approx(1000, rel=0.1)
    coarse, fine = in_both(coarse=1e-3, fine=1e-15)
    assert (coarse.verdict, fine.verdict) == (Verdict.COARSER, Verdict.SAME)
    for size in (1e-3, 1e-8, 1e-12):
        coarse, fine = in_both(coarse=max(size, 1e-6), fine=size)
        assert fine.verdict is Verdict.DIFFERENT, size
        assert (coarse.verdict is Verdict.DIFFERENT) == (size > 1e-6), "below, float32 hides it"


def test_a_precision_alone_or_beside_one_without_a_floor_cannot_tell_coarse_rounding_from_a_mistake() -> None:
    candidate = run("scratch", shift=1e-3, precision="float32")
    alone = judged(*COARSE, candidate)
    assert (alone.verdict, alone.other_precision) == (Verdict.DIFFERENT, None)
    without_floor = [run("torch"), run("scratch", shift=1e-12)]
    assert verdicts_of(*COARSE, candidate, *without_floor) == [Verdict.DIFFERENT, Verdict.NO_FLOOR]


@pytest.mark.parametrize(("floor", "factor", "steps"), [(1e-6, 1.5, (8, 16, 32, 64)), (1e-3, math.nan, (64,))])
def test_a_candidate_that_breaks_in_float32_alone_is_different(
    floor: float, factor: float, steps: tuple[int, ...]
) -> None:
    candidate = run("scratch", shift=floor, precision="float32", steps=64)
    for step in steps:
        candidate.probes[step] *= factor
    coarse = [*nudged(floor, floor, precision="float32", steps=64), candidate]
    assert verdicts_of(*coarse, *FINE, run("scratch", shift=1e-15)) == [Verdict.DIFFERENT, Verdict.SAME]


def test_precisions_that_are_compared_or_the_losses_own_do_not_explain_each_other() -> None:
    candidates = [run("torch", shift=0.9, precision=precision) for precision in ("float32", "float64")]
    references = nudged(0.05, 0.05, precision="bfloat16")
    judgements = judge(pairs([*references, *candidates], by="precision", reference="bfloat16"))
    assert [judgement.other_precision for judgement in judgements] == [None, None]

    mixed = {"precision": "float64", "loss_precision": "float32"}
    coarse = {"precision": "float32", "loss_precision": "float32"}
    runs = [*nudged(1e-7, 1e-7, **mixed), run("scratch", 1e-4, **mixed)]
    judgements = judge(pairs([*runs, *nudged(1e-6, 1e-6, **coarse), run("scratch", 1e-3, **coarse)]))
    assert [judgement.verdict for judgement in judgements] == [Verdict.DIFFERENT, Verdict.DIFFERENT]
    assert [judgement.other_precision for judgement in judgements] == [None, None]


def test_values_of_a_loss_are_as_coarse_as_the_coarser_of_run_and_loss() -> None:
    """An equal value is a gap of a tenth of that, beside a floor that nudges made."""

    def decades(precision: str, loss_precision: str, floor: float = 1e-5) -> float:
        settings = {"precision": precision, "loss_precision": loss_precision}
        judgement = judged(*nudged(floor, floor, **settings), run("scratch", shift=1e-3, loss_shift=0, **settings))
        return judgement.losses.above[1]

    assert decades("float64", "float64", floor=1e-8) == pytest.approx(-8.65, abs=0.1)
    for precisions in (("float64", "float32"), ("float32", "float32"), ("float32", "float64")):
        assert decades(*precisions) == pytest.approx(-2.92, abs=0.1)


def test_a_loss_of_other_values_is_told_from_one_that_trains_otherwise() -> None:
    judgement = judged(*FLOOR, run("scratch", 1e-14, loss_shift=1e-9))
    assert (judgement.verdict, judgement.left_floor) == (Verdict.OTHER_VALUES, 1)
    assert verdicts_of(*FLOOR, run("scratch", 1e-14, loss_shift=1e-13)) == [Verdict.SAME]
    assert verdicts_of(*FLOOR, run("scratch", 1e-9, loss_shift=1e-9)) == [Verdict.DIFFERENT]
    assert verdicts_of(*FLOOR, run("scratch", 1e-14, loss_shift=math.nan)) == [Verdict.OTHER_VALUES]
    coarse = [*COARSE, run("scratch", 1e-6, precision="float32", loss_shift=1e-3)]
    fine = [*FINE, run("scratch", 1e-15, loss_shift=1e-12)]
    assert verdicts_of(*coarse, *fine) == [Verdict.SAME, Verdict.SAME], "coarse in both precisions, so by rounding"


def test_equal_runs_are_bitwise_identical_and_one_bit_is_not() -> None:
    judgement = judged(*nudged(1e-9, 1e-9), run("scratch"))
    assert (judgement.verdict, set(judgement.outputs.gap.values())) == (Verdict.IDENTICAL, {0.0})
    other_loss, other_output = run("scratch"), run("article")
    for bit in (other_loss.losses[1], other_output.probes[2][3, 1]):
        bit.copy_(torch.nextafter(bit, torch.tensor(9.0).double()))
    assert verdicts_of(run("torch"), other_loss, other_output) == [Verdict.NO_FLOOR, Verdict.NO_FLOOR]
    judgement = judged(run("torch"), run("scratch", shift=0.1))
    assert (judgement.verdict, judgement.outputs.floor) == (Verdict.NO_FLOOR, {})
    assert math.isnan(judgement.outputs.margin) and math.isnan(judgement.losses.margin)


def test_gaps_that_have_no_logarithm_are_clipped() -> None:
    judgement = judged(*FLOOR, run("scratch", shift=math.nan))
    assert judgement.verdict is Verdict.DIFFERENT
    assert math.isfinite(judgement.outputs.margin)
    judgement = judged(*FLOOR, run("scratch"), run("scratch", shift=1e-3, nudge=1))
    assert judgement.outputs.gap[1] == pytest.approx(math.sqrt(2.2e-17 * 1e-3), rel=0.05), "0 is a tenth of the epsilon"
