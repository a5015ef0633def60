import math
from typing import Any

import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.errors import BadInput
from xent.recording.trace import Trace, is_probe_step
from xent.verdict.floor import loss_gaps, output_gaps
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import pairs

FLOOR = nudged(1e-14, 1e-14)
COARSE, FINE = nudged(1e-6, 1e-6, precision="float32"), nudged(1e-15, 1e-15)


def judged(*runs: Trace) -> Judgement:
    (judgement,) = judge(pairs(list(runs)))
    return judgement


def verdicts_of(*runs: Trace) -> list[Verdict]:
    return [judgement.verdict for judgement in judge(pairs(list(runs)))]


def test_gap_floor_and_margin_are_those_of_the_definition() -> None:
    assert output_gaps(run("scratch", shift=0.25), run("torch")) == {0: 0, 1: 0.25, 2: 0.25, 4: 0.25}
    candidate, reference = run("scratch"), run("torch")
    candidate.losses[2] += 0.5  # of step 3, so in the span that ends at step 4
    distance = 0.5 / torch.linalg.vector_norm(reference.losses[2:4]).item()
    assert loss_gaps(candidate, reference) == {1: 0, 2: 0, 4: pytest.approx(distance)}
    outputs = judged(*nudged(1e-14, 1e-12), run("scratch", shift=1e-12)).outputs
    assert outputs.floor == {step: pytest.approx(1e-13, rel=0.05, abs=0) for step in (1, 2, 4)}
    assert outputs.floor_range[2] == [pytest.approx(1e-14, rel=0.05, abs=0), pytest.approx(1e-12, rel=0.05, abs=0)]
    assert outputs.margin == pytest.approx(1, abs=0.02)
    assert outputs.noise == pytest.approx(2, abs=0.02), "1e-12 against 1e-14"
    assert outputs.gap[4] == pytest.approx(1e-12, rel=0.05, abs=0)
    apart_at_4 = run("scratch", shift=1e-13, steps=8)
    for step in (4, 8):
        apart_at_4.probes[step] *= 1 + 1e-10
    early = judged(*nudged(1e-13, 1e-13, steps=8), apart_at_4).outputs.early
    assert early == pytest.approx(1, abs=0.02), "the mean of 0, 0 and 3 decades at steps 1, 2 and 4"


def test_beyond_the_limit_which_seeds_narrow_and_every_nudged_run_is_different() -> None:
    judgement = judged(*FLOOR, run("scratch", shift=1e-11))
    assert (judgement.verdict, judgement.left_floor) == (Verdict.DIFFERENT, 1)
    assert verdicts_of(*FLOOR, run("scratch", shift=5e-13)) == [Verdict.SAME]
    assert verdicts_of(*nudged(1e-15, 1e-11), run("scratch", shift=1e-10)) == [Verdict.SAME], "nudged runs reach as far"
    references = [trace for seed in range(4) for trace in nudged(1e-14, 1e-14, seed=seed)]
    judgement = judged(*references, *(run("scratch", 5e-13, seed=seed) for seed in range(4)))  # 1.7 decades
    assert (len(judgement.pairs), judgement.limit, judgement.verdict) == (4, 1, Verdict.DIFFERENT)


def test_a_mistake_that_is_made_late_is_not_averaged_away() -> None:
    def judged_late(*late: int, steps: int = 4, factor: float = 1.1) -> Judgement:
        candidate = run("scratch", shift=1e-14, steps=steps)
        for step in late:
            candidate.probes[step] *= factor
        return judged(*nudged(1e-14, 1e-14, steps=steps), candidate)

    assert judged_late(2, 4).left_floor == 2
    judgement = judged_late(128, steps=128)
    assert (judgement.verdict, judgement.left_floor) == (Verdict.DIFFERENT, 128)
    assert judgement.outputs.margin == pytest.approx(13 / math.sqrt(8), abs=0.1), "one of eight probe steps"
    margin = judged_late(4, factor=1 + 2e-14).outputs.margin
    assert margin == pytest.approx(math.log10(3) / math.sqrt(3), abs=0.03), "below the limit too"


def test_what_shrinks_with_the_precision_is_coarser_rounding_and_what_does_not_is_a_mistake() -> None:
    def in_both(coarse: float, fine: float) -> list[Judgement]:
        candidates = run("scratch", coarse, precision="float32"), run("scratch", fine)
        return judge(pairs([*COARSE, *FINE, *candidates]))

    coarse, fine = in_both(coarse=1e-3, fine=1e-12)  # a thousand times the floor in both
    assert (coarse.verdict, fine.verdict) == (Verdict.COARSER, Verdict.COARSER)
    assert 10**coarse.outputs.early == pytest.approx(1000, rel=0.1)
    coarse, fine = in_both(coarse=1e-3, fine=1e-15)
    assert (coarse.verdict, fine.verdict) == (Verdict.COARSER, Verdict.SAME)
    for size in (1e-3, 1e-8, 1e-12):
        coarse, fine = in_both(coarse=max(size, 1e-6), fine=size)
        assert fine.verdict is Verdict.DIFFERENT, size
        assert (coarse.verdict is Verdict.DIFFERENT) == (size > 1e-6), "below, float32 hides it"
    in_float32 = [*COARSE, run("scratch", shift=1e-3, precision="float32")]
    alone = judged(*in_float32)
    assert (alone.verdict, alone.other_precision) == (Verdict.DIFFERENT, None), "which alone does not tell"
    assert verdicts_of(*in_float32, run("torch"), run("scratch", 1e-12)) == [Verdict.DIFFERENT, Verdict.NO_FLOOR]


def test_a_candidate_that_breaks_in_float32_alone_is_different() -> None:
    for floor, factor, steps in ((1e-6, 1.5, (8, 16, 32, 64)), (1e-3, math.nan, (64,))):
        candidate = run("scratch", shift=floor, precision="float32", steps=64)
        for step in steps:
            candidate.probes[step] *= factor
        coarse = [*nudged(floor, floor, precision="float32", steps=64), candidate]
        assert verdicts_of(*coarse, *FINE, run("scratch", shift=1e-15)) == [Verdict.DIFFERENT, Verdict.SAME]


def test_precisions_that_are_compared_or_the_losses_own_do_not_explain_each_other() -> None:
    runs = [*nudged(0.05, 0.05, precision="bfloat16"), run("torch", 0.9, precision="float32"), run("torch", 0.9)]
    compared = judge(pairs(runs, by="precision", reference="bfloat16"))
    own = {"loss_precision": "float32"}
    runs = [*nudged(1e-7, 1e-7, **own), run("scratch", 1e-4, **own)]
    own |= {"precision": "float32"}
    of_losses = judge(pairs([*runs, *nudged(1e-6, 1e-6, **own), run("scratch", 1e-3, **own)]))
    assert [judgement.verdict for judgement in of_losses] == [Verdict.DIFFERENT, Verdict.DIFFERENT]
    assert [judgement.other_precision for judgement in (*compared, *of_losses)] == [None] * 4


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


def test_runs_are_judged_over_the_steps_that_all_made_and_one_that_ends_where_no_reference_does_is_told() -> None:
    floor = [run("torch", steps=9), run("torch", 1e-14, steps=11, nudge=1), run("torch", 1e-14, steps=13, nudge=2)]
    judgement = judged(*floor, run("scratch", 1e-14, steps=12))
    assert (judgement.verdict, judgement.ends) == (Verdict.SAME, ({12}, {9, 11, 13}))
    assert {trace.step for pair in judgement.pairs for trace in (pair.candidate, pair.reference, *pair.nudged)} == {8}
    assert [*judgement.outputs.floor] == [1, 2, 4, 8]
    for steps in (7, 14):
        assert verdicts_of(*floor, run("scratch", 1e-14, steps=steps)) == [Verdict.OTHER_END]
    assert verdicts_of(*floor, run("scratch", 1e-9, steps=14)) == [Verdict.DIFFERENT]
    at_once = [run("torch", steps=9), run("torch", 1e-14, steps=9, nudge=1), run("scratch", 1e-14, steps=9)]
    assert judged(*at_once).pairs[0].reference is at_once[0], "nothing is cut"


def test_a_candidate_of_coarser_rounding_may_round_as_coarsely_in_a_trial() -> None:
    for value, verdict in [(450.0 * (1 + 1e-2), Verdict.COARSER), (450.0 * 1.1, Verdict.OTHER_IN_TRIALS)]:
        runs = [*COARSE, run("scratch", 1e-3, precision="float32"), *FINE, run("scratch", 1e-15)]
        for trace in runs:
            is_coarse = trace.settings["loss"] == "scratch" and trace.settings["precision"] == "float32"
            trace.trials = {"logits of 1000": (value if is_coarse else 450.0, 0.2)}
        assert verdicts_of(*runs) == [verdict, Verdict.SAME]


def test_a_loss_that_is_another_in_a_trial_is_told_even_if_its_training_is_bitwise_identical() -> None:
    def with_trial(run: Trace, value: float, norm: float) -> Trace:
        run.trials = {"logits of 1000": (value, norm)}
        return run

    floor = [with_trial(trace, 450.0, 0.2) for trace in nudged(1e-14, 1e-14)]
    other = Verdict.OTHER_IN_TRIALS
    for value, norm, verdict in [
        (450.0, 0.2, Verdict.IDENTICAL),
        (450.0 * (1 + 1e-10), 0.2, Verdict.IDENTICAL),
        (450.0 * (1 + 1e-8), 0.2, other),
        (450.0, 0.2 + 1e-8, other),
        (450.0, math.nan, other),
    ]:
        assert verdicts_of(*floor, with_trial(run("scratch"), value, norm)) == [verdict]
    assert verdicts_of(*floor, with_trial(run("scratch", 1e-9), math.nan, 0.2)) == [Verdict.DIFFERENT]
    assert verdicts_of(*floor, run("scratch")) == [Verdict.IDENTICAL], "as of a recorder, which tries no loss"
    coarse = [
        with_trial(trace, 450.0, 0.2) for trace in nudged(1e-6, 1e-6, precision="float32", loss_precision="bfloat16")
    ]
    nearly = run("scratch", precision="float32", loss_precision="bfloat16")
    assert verdicts_of(*coarse, with_trial(nearly, 451.0, 0.2)) == [Verdict.IDENTICAL], "within bfloat16"
    infinite = [with_trial(trace, math.inf, math.nan) for trace in nudged(1e-14, 1e-14)]
    assert verdicts_of(*infinite, with_trial(run("scratch"), 1.0, 0.2)) == [Verdict.IDENTICAL], "as the reference is"


def test_equal_runs_are_bitwise_identical_and_one_bit_is_not() -> None:
    judgement = judged(*nudged(1e-9, 1e-9), run("scratch"))
    assert (judgement.verdict, set(judgement.outputs.gap.values())) == (Verdict.IDENTICAL, {0.0})
    other_loss, other_output = run("scratch"), run("article")
    for bit in (other_loss.losses[1], other_output.probes[2][3, 1]):
        bit.copy_(torch.nextafter(bit, torch.tensor(9.0).double()))
    assert verdicts_of(run("torch"), other_loss, other_output) == [Verdict.NO_FLOOR, Verdict.NO_FLOOR]


def test_gaps_that_have_no_logarithm_are_clipped() -> None:
    judgement = judged(*FLOOR, run("scratch", shift=math.nan))
    assert judgement.verdict is Verdict.DIFFERENT and math.isfinite(judgement.outputs.margin)
    judgement = judged(*FLOOR, run("scratch"), run("scratch", shift=1e-3, nudge=1))
    assert judgement.outputs.gap[1] == pytest.approx(math.sqrt(2.2e-17 * 1e-3), rel=0.05, abs=0), (
        "0 is a tenth of the epsilon"
    )


def test_a_nudge_that_changes_nothing_or_the_first_loss_by_more_than_rounding_is_no_measure() -> None:
    with pytest.raises(BadInput, match="torch,nudge=2 is bitwise identical to torch,nudge=0, its nudge"):
        judge(pairs([*nudged(1e-15, 0.0), run("scratch", 1e-15)]))

    def judge_with(loss_shift: float, precision: str) -> None:
        shift = 1e-12 if precision == "float64" else 0.01
        references = [
            run("torch", shift * n, nudge=n, loss_shift=loss_shift * n, precision=precision) for n in range(3)
        ]
        judge(pairs([*references, run("scratch", shift, precision=precision)]))

    for precision, rounding, more in (("float64", 1e-9, 1e-7), ("float32", 1e-4, 1e-2), ("bfloat16", 0.01, 0.3)):
        judge_with(0.0, precision)  # what a training does after its first loss is its own
        judge_with(rounding, precision)
        with pytest.raises(BadInput, match=f"rounding does not explain that in {precision}: turn dropout off"):
            judge_with(more, precision)


@pytest.mark.parametrize(("value", "fault"), [(0.0, "the same all the time"), (torch.nan, "non-finite")])
def test_outputs_that_training_does_not_change_are_no_measure(value: float, fault: str) -> None:
    runs = [*nudged(1e-15, 2e-15), run("scratch", 1e-15)]
    for trace in runs:
        trace.probes = {step: torch.full((4, 3), value, dtype=torch.float64) for step in trace.probes}
    with pytest.raises(BadInput, match=f"the outputs of torch,nudge=0 are {fault}, though its loss falls: probe what"):
        judge(pairs(runs))


@pytest.mark.parametrize("name", ["first weights", "batch 8"])
def test_a_nudged_run_that_was_given_something_else_is_no_measure_and_a_candidate_is_told(name: str) -> None:
    fault = "another batch at step 8" if name == "batch 8" else "other first weights"
    _, moved, candidate = runs = [*nudged(1e-15), run("scratch", 1e-3)]
    for trace in runs:
        trace.fingerprints = {"batch 1": (9.0, 0.0, torch.inf, 1.0), name: (9.0, 10.0, 100.0, 1.0)}
    moved.fingerprints[name] = (9.0, 10.05, 100.0, 1.01)  # as a nudge may
    assert judge(pairs(runs))[0].first_mismatch == ""
    others = (8.0, 10.0, 100.0, 1.0), (9.0, 12.0, 100.0, 1.0), (9.0, 10.0, 100.0, 2.0)
    for other in others:
        candidate.fingerprints[name] = other
        assert judge(pairs(runs))[0].first_mismatch == fault
    for other in others:
        moved.fingerprints[name] = other
        with pytest.raises(BadInput, match=f"torch,nudge=1 got {fault} than torch,nudge=0"):
            judge(pairs(runs))


def test_a_late_mistake_is_judged_by_the_spread_of_the_nudged_runs_at_each_late_probe() -> None:
    def judged_late(
        size: float, *steps: int, floor: tuple[float, float] = (1e-7, 1.2e-7), **settings: Any
    ) -> Judgement:
        candidate = run("scratch", shift=1e-7, steps=128, precision="float32", **settings)
        for step in steps:
            candidate.probes[step] *= 1 + size
        return judged(*nudged(*floor, steps=128, precision="float32", **settings), candidate)

    judgement = judged_late(1e-4, 112, 128)  # a thousand times the floor
    assert (judgement.verdict, judgement.left_floor) == (Verdict.DIFFERENT, 112)
    assert judgement.outputs.margin < judgement.limit, "which the margin alone would let pass"
    assert judged_late(2e-6, 112).verdict is Verdict.SAME, "twenty times the floor"
    assert judged_late(1e-4, 112, floor=(1e-8, 1e-5)).verdict is Verdict.SAME, "nudged runs are as far apart"
    coarse = run("scratch", shift=1e-5, steps=128, precision="float32")
    assert not judged(*nudged(1e-7, 1e-7, steps=128, precision="float32"), coarse).outputs.most_late > 1, "but coarse"


def test_quarters_between_powers_of_two_are_for_late_mistakes_alone() -> None:
    assert [step for step in range(101) if is_probe_step(step, 100)] == [
        *(0, 1, 2, 4, 8, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 100)
    ]
    outputs = judged(*nudged(1e-14, 1e-14, steps=100), run("scratch", shift=1e-14, steps=100)).outputs
    assert [*outputs.above] == [*outputs.floor] == [1, 2, 4, 8, 16, 32, 64, 100]
    assert [*outputs.late] == [16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 100]


def test_in_float64_a_nudge_that_moves_the_first_outputs_by_more_than_rounding_is_no_measure() -> None:
    message = r"the outputs of torch,nudge=1 are 1e-06 from those of torch,nudge=0 at step 1, .*; leave reorder out"
    with pytest.raises(BadInput, match=message):
        judge(pairs([*nudged(1e-6, loss_shift=0.0), run("scratch", shift=1e-6)]))
    first_loss_of_nothing = [*nudged(1e-14, 1e-14), run("scratch", shift=1e-14)]
    for trace, first in zip(first_loss_of_nothing, (2.8e-17, -1e-17, 5e-17, 3e-17)):
        trace.losses[0] = first
    assert verdicts_of(*first_loss_of_nothing) == [Verdict.SAME], "a critic begins at 0 but for rounding"


def test_what_must_change_is_the_outputs_and_not_the_loss() -> None:
    def with_outputs(change: float) -> Verdict:
        runs = [*nudged(1e-14, 1e-14, steps=32), run("scratch", shift=1e-14, steps=32)]
        for trace in runs:
            trace.losses = 3 - trace.losses  # which rise
            trace.probes = {step: outputs * 0 + 3 + change * step for step, outputs in trace.probes.items()}
            trace.probes = {
                step: outputs * (1 + 1e-14 * trace.settings["nudge"]) for step, outputs in trace.probes.items()
            }
        return judged(*runs).verdict

    assert with_outputs(1.0) is Verdict.SAME
    assert with_outputs(1e-13) is Verdict.NOTHING_LEARNED, "a few hundred times the floor"
    assert with_outputs(torch.nan) is Verdict.NOTHING_LEARNED
