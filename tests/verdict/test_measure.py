import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.errors import BadInput
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
    def judge_with(loss_shift: float) -> None:
        references = [run("torch", 0.01 * n, nudge=n, loss_shift=loss_shift * n, precision=precision) for n in range(3)]
        judge(pairs([*references, run("scratch", 0.01, precision=precision)]))

    judge_with(0.0)  # what a training does after its first loss is its own
    judge_with(rounding)
    with pytest.raises(BadInput, match=f"rounding does not explain that in {precision}: turn dropout off"):
        judge_with(more)


@pytest.mark.parametrize(("value", "fault"), [(0.0, "the same all the time"), (torch.nan, "non-finite")])
def test_outputs_that_training_does_not_change_are_no_measure(value: float, fault: str) -> None:
    runs = [*nudged(1e-15, 2e-15), run("scratch", 1e-15)]
    for trace in runs:
        trace.probes = {step: torch.full((4, 3), value, dtype=torch.float64) for step in trace.probes}
    with pytest.raises(BadInput, match=f"the outputs of torch,nudge=0 are {fault}, though its loss falls: probe what"):
        judge(pairs(runs))


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    ("name", "fault"), [("first weights", "other first weights"), ("batch 8", "another batch at step 8")]
)
def test_nudged_runs_that_were_given_something_else_are_no_measure(
    name: str, fault: str, other: tuple[float, float, float, float]
) -> None:
    plain, moved = nudged(1e-15)
    plain.fingerprints, moved.fingerprints = {name: FINGERPRINT}, {name: (9.0, 10.05, 100.0, 1.01)}
    judge(pairs([plain, moved, run("scratch", 1e-15)]))
    moved.fingerprints[name] = other
    with pytest.raises(BadInput, match=f"torch,nudge=1 got {fault} than torch,nudge=0"):
        judge(pairs([plain, moved, run("scratch", 1e-15)]))


def test_what_a_candidate_got_otherwise_is_told() -> None:
    runs = [*nudged(1e-15, 1e-15), run("scratch", 1e-3)]
    for trace in runs:
        trace.fingerprints = {"first weights": FINGERPRINT, "batch 1": (9.0, 0.0, torch.inf, 1.0)}
    assert judge(pairs(runs))[0].first_mismatch == ""
    runs[-1].fingerprints["first weights"] = OTHERS[0]
    assert judge(pairs(runs))[0].first_mismatch == "other first weights"
