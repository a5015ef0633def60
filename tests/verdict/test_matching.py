import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.errors import BadInput
from xent.verdict.matching import pairs


def test_each_candidate_meets_the_reference_it_is_matched_with() -> None:
    runs = [run(loss, seed=seed) for loss in ("scratch", "torch", "article") for seed in (0, 1)]
    found = [(pair.candidate.settings["seed"], pair.reference.settings["seed"]) for pair in pairs(runs)]
    assert sorted(found) == [(0, 0), (0, 0), (1, 1), (1, 1)]
    assert all(pair.reference.settings["loss"] == "torch" for pair in pairs(runs))


def test_nudged_references_are_the_measure_and_no_candidates() -> None:
    (pair,) = pairs([run("scratch"), *nudged(1e-7, 1e-7)[::-1], *nudged(1e-7, seed=1)])
    floor = pair.unnudged, *pair.nudged
    assert [(each.settings["nudge"], each.settings["seed"]) for each in floor] == [(0, 0), (1, 0), (2, 0)]


def test_a_nudge_counts_once_however_often_it_was_trained() -> None:
    first, second = run("torch", shift=1e-7, nudge=1), run("torch", shift=1e-7, nudge=1)
    found = pairs([*nudged(), first, second, run("scratch")])
    assert found[0].candidate is second, "equal to the first in every setting, so a candidate"
    assert [len(pair.nudged) for pair in found] == [1, 1]
    assert all(pair.nudged[0] is first for pair in found)


def test_a_nudged_candidate_meets_the_reference_of_its_nudge() -> None:
    found = pairs([*nudged(1e-7), run("scratch"), run("scratch", nudge=1)])
    assert [pair.reference.settings["nudge"] for pair in found] == [0, 1]
    assert all(pair.unnudged.settings["nudge"] == 0 for pair in found)
    with pytest.raises(BadInput, match=r"they differ in nudge \(2 against 0\)"):
        pairs([*nudged(1e-7), run("scratch", nudge=2)])


def test_the_reference_of_a_loss_has_the_same_arguments() -> None:
    runs = [run(loss, **{"loss.label_smoothing": s}) for loss in ("torch", "scratch") for s in (0.0, 0.1)]
    found = [[t.settings["loss.label_smoothing"] for t in (p.candidate, p.reference)] for p in pairs(runs)]
    assert sorted(found) == [[0.0, 0.0], [0.1, 0.1]]
    (pair,) = pairs([run("torch"), run("custom", **{"loss.alpha": 3})])
    assert pair.reference.settings["loss"] == "torch", "the only one there is"


def test_candidates_of_other_arguments_meet_a_reference_that_was_trained_twice() -> None:
    """As in a sweep over an argument that PyTorch's loss has not."""
    found = pairs([*nudged(1e-14), run("torch"), run("custom", **{"loss.a": 1}), run("custom", **{"loss.a": 2})])
    assert [pair.candidate.settings.get("loss.a") for pair in found] == [None, 1, 2]
    with pytest.raises(BadInput, match="they differ in the arguments of loss"):
        pairs([run("torch", **{"loss.weight": [w]}) for w in (1, 2)] + [run("custom", **{"loss.weight": [3]})])


def test_a_second_reference_run_is_held_against_the_first() -> None:
    first, second = run("torch"), run("torch", shift=1e-3)
    (pair,) = pairs([first, second])
    assert (pair.reference, pair.candidate) == (first, second)


def test_any_run_can_be_held_against_itself() -> None:
    (pair,) = pairs([run("scratch"), run("scratch")])
    assert pair.reference.settings["loss"] == "scratch"


def test_runs_that_are_not_matched_are_refused_naming_the_setting() -> None:
    with pytest.raises(BadInput, match=r"they differ in seed \(1 against 0\)"):
        pairs([run("torch"), run("scratch", seed=1)])
    with pytest.raises(
        BadInput,
        match="nothing to compare among torch,seed=1, torch,seed=0: expected a run with loss=torch, and others",
    ):
        pairs([run("torch", seed=1), run("torch", seed=0)])
    with pytest.raises(BadInput, match=r"they differ in lr \(0.1 against 0.2\): "):
        pairs([run("torch", lr=0.3, seed=1), run("torch", lr=0.2), run("scratch", lr=0.1)])
    with pytest.raises(BadInput, match=r"they differ in machine.threads \(1 against 2\): "):
        pairs([run("torch", **{"machine.threads": 2}), run("scratch", **{"machine.threads": 1})])


def test_any_setting_can_be_the_one_that_is_compared() -> None:
    runs = [run("torch", device=device) for device in ("cuda", "cpu")]
    (pair,) = pairs(runs, by="device", reference="cpu")
    assert pair.reference.settings["device"] == "cpu"
    runs = [run("torch", device=device, **{"machine.threads": n}) for device, n in (("cuda", 0), ("cpu", 2))]
    assert len(pairs(runs, by="device", reference="cpu")) == 1, "another device is another machine"
    runs = [run("torch", **{"machine.threads": n}) for n in (1, 2)]
    assert len(pairs(runs, by="machine.threads", reference="1")) == 1


def test_what_measures_the_noise_is_not_compared() -> None:
    for by in ("seed", "nudge"):
        with pytest.raises(BadInput, match=f"--by {by}: it measures the noise"):
            pairs(nudged(1e-7), by=by, reference="0")


def test_what_comes_with_a_setting_may_differ_too() -> None:
    machines = {"A": "AVX512", "B": "AVX2"}
    runs = [
        run("torch", **{"machine.processor": processor, "machine.instructions": instructions})
        for processor, instructions in machines.items()
    ]
    assert len(pairs(runs, by="machine.processor", reference="A")) == 1
    with pytest.raises(BadInput, match=r"they differ in machine.processor \(A against B\)"):
        pairs(runs, by="machine.instructions", reference="AVX2")
    runs = [run("torch", precision=precision, loss_precision=precision) for precision in ("float32", "float64")]
    assert len(pairs(runs, by="precision", reference="float64")) == 1, "the loss is in the precision of the run"


def test_what_is_compared_must_be_a_setting_and_have_a_reference() -> None:
    runs = [run("torch", device=device) for device in ("cuda", "cpu")]
    with pytest.raises(BadInput, match="--by device: give --reference, one of cuda, cpu"):
        pairs(runs, by="device")
    with pytest.raises(
        BadInput, match="no run has device=mps: train one, or compare with --reference, one of cuda, cpu"
    ):
        pairs(runs, by="device", reference="mps")
    with pytest.raises(BadInput, match="--by speed: torch,device=cuda has no such setting, but loss, "):
        pairs(runs, by="speed")


def test_a_lone_run_or_no_reference_is_nothing_to_compare() -> None:
    with pytest.raises(BadInput, match="nothing to compare among torch: expected a run with loss=torch, and others"):
        pairs([run("torch")])
    with pytest.raises(
        BadInput, match="no run has loss=torch: train one, or compare with --reference, one of scratch, article"
    ):
        pairs([run("scratch"), run("article")])


def test_runs_of_other_lengths_or_outputs_are_refused() -> None:
    of_both = r"epochs=1: 4 steps, outputs of shape \[4, 3\] and torch,epochs=2: 2 steps, outputs of shape \[4, 3\];"
    with pytest.raises(BadInput, match=of_both):
        pairs([run("torch", epochs=2, steps=2), run("torch", epochs=1)], by="epochs", reference="2")
    wide = run("torch", data="wide")
    wide.probes = {step: torch.ones(4, 100) for step in wide.probes}
    with pytest.raises(BadInput, match=r"outputs of shape \[4, 100\]"):
        pairs([run("torch", data="narrow"), wide], by="data", reference="narrow")
    other = run("torch", data="other")
    other.probes[3] = other.probes.pop(2)
    with pytest.raises(BadInput, match="looked at after the same"):
        pairs([run("torch", data="narrow"), other], by="data", reference="narrow")


def test_the_outputs_before_the_first_step_are_not_needed() -> None:
    plain, other = run("torch"), run("scratch")
    del other.probes[0]
    assert len(pairs([plain, other])) == 1
