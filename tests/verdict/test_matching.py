from typing import Any

import pytest
import torch

from tests.helpers.runs import nudged, run
from xent.recording.errors import BadInput
from xent.recording.trace import Trace
from xent.verdict.matching import pairs


def assert_refused(message: str, runs: list[Trace], **comparison: str) -> None:
    with pytest.raises(BadInput, match=message):
        pairs(runs, **comparison)


def both(runs: list[Trace], setting: str) -> list[tuple[Any, Any]]:
    """The values of a setting in each candidate and its reference."""
    return [tuple(trace.settings[setting] for trace in (pair.candidate, pair.reference)) for pair in pairs(runs)]


def test_each_candidate_meets_the_reference_it_is_matched_with() -> None:
    runs = [run(loss, seed=seed) for loss in ("scratch", "torch", "article") for seed in (0, 1)]
    assert both(runs, "seed") == [(0, 0), (1, 1), (0, 0), (1, 1)]
    assert {reference for _, reference in both(runs, "loss")} == {"torch"}


def test_nudged_references_are_the_measure_and_no_candidates() -> None:
    (pair,) = pairs([run("scratch"), *nudged(1e-7, 1e-7)[::-1], *nudged(1e-7, seed=1)])
    floor = pair.unnudged, *pair.nudged
    assert [(trace.settings["nudge"], trace.settings["seed"]) for trace in floor] == [(0, 0), (1, 0), (2, 0)]


def test_a_nudge_counts_once_however_often_it_was_trained() -> None:
    first, second = run("torch", shift=1e-7, nudge=1), run("torch", shift=1e-7, nudge=1)
    matched = pairs([*nudged(), first, second, run("scratch")])
    assert matched[0].candidate is second, "equal to the first in every setting, so a candidate"
    assert [len(pair.nudged) for pair in matched] == [1, 1]
    assert all(pair.nudged[0] is first for pair in matched)


def test_a_nudged_candidate_meets_the_reference_of_its_nudge() -> None:
    matched = pairs([*nudged(1e-7), run("scratch"), run("scratch", nudge=1)])
    assert [pair.reference.settings["nudge"] for pair in matched] == [0, 1]
    assert all(pair.unnudged.settings["nudge"] == 0 for pair in matched)
    assert_refused(r"they differ in nudge \(2 against 0\)", [*nudged(1e-7), run("scratch", nudge=2)])


def test_the_reference_of_a_loss_has_the_same_arguments() -> None:
    runs = [run(loss, **{"loss.label_smoothing": s}) for loss in ("torch", "scratch") for s in (0.0, 0.1)]
    assert both(runs, "loss.label_smoothing") == [(0.0, 0.0), (0.1, 0.1)]
    assert both([run("torch"), run("custom", **{"loss.alpha": 3})], "loss") == [("custom", "torch")], "the only one"


def test_candidates_of_other_arguments_meet_a_reference_that_was_trained_twice() -> None:
    """As in a sweep over an argument that PyTorch's loss has not."""
    matched = pairs([*nudged(1e-14), run("torch"), run("custom", **{"loss.a": 1}), run("custom", **{"loss.a": 2})])
    assert [pair.candidate.settings.get("loss.a") for pair in matched] == [None, 1, 2]
    references = [run("torch", **{"loss.weight": [weight]}) for weight in (1, 2)]
    assert_refused("they differ in the arguments of loss", [*references, run("custom", **{"loss.weight": [3]})])


@pytest.mark.parametrize("loss", ["torch", "scratch"])
def test_a_run_that_was_trained_twice_is_held_against_the_first(loss: str) -> None:
    first, second = run(loss), run(loss, shift=1e-3)
    (pair,) = pairs([first, second])
    assert (pair.reference, pair.candidate) == (first, second)


def test_runs_that_are_not_matched_are_refused_naming_the_setting() -> None:
    assert_refused(r"they differ in seed \(1 against 0\)", [run("torch"), run("scratch", seed=1)])
    closest = [run("torch", lr=0.3, seed=1), run("torch", lr=0.2), run("scratch", lr=0.1)]
    assert_refused(r"they differ in lr \(0.1 against 0.2\): ", closest)
    machines = [run("torch", **{"machine.threads": 2}), run("scratch", **{"machine.threads": 1})]
    assert_refused(r"they differ in machine.threads \(1 against 2\): ", machines)


def test_any_setting_can_be_compared_and_what_comes_with_it_may_differ_too() -> None:
    runs = [run("torch", **{"machine.threads": n}) for n in (1, 2)]
    assert len(pairs(runs, by="machine.threads", reference="1")) == 1
    runs = [run("torch", device=device, **{"machine.threads": n}) for device, n in (("cuda", 0), ("cpu", 2))]
    (pair,) = pairs(runs, by="device", reference="cpu")  # another device is another machine
    assert pair.reference.settings["device"] == "cpu"
    runs = [
        run("torch", **{"machine.processor": processor, "machine.instructions": instructions})
        for processor, instructions in (("A", "AVX512"), ("B", "AVX2"))
    ]
    assert len(pairs(runs, by="machine.processor", reference="A")) == 1
    other_processor = r"they differ in machine.processor \(A against B\)"
    assert_refused(other_processor, runs, by="machine.instructions", reference="AVX2")
    runs = [run("torch", precision=precision, loss_precision=precision) for precision in ("float32", "float64")]
    assert len(pairs(runs, by="precision", reference="float64")) == 1, "the loss is in the precision of the run"


def test_what_is_compared_must_be_a_setting_and_have_a_reference() -> None:
    runs = [run("torch", device=device) for device in ("cuda", "cpu")]
    assert_refused("--by device: give --reference, one of cuda, cpu", runs, by="device")
    train_one = "train one, or compare with --reference, one of"
    assert_refused(f"no run has device=mps: {train_one} cuda, cpu", runs, by="device", reference="mps")
    assert_refused(f"no run has loss=torch: {train_one} scratch, article", [run("scratch"), run("article")])
    assert_refused("--by speed: torch,device=cuda has no such setting, but loss, ", runs, by="speed")
    for by in ("seed", "nudge"):
        assert_refused(f"--by {by}: it measures the noise", nudged(1e-7), by=by, reference="0")


def test_references_alone_are_nothing_to_compare() -> None:
    expected = "expected a run with loss=torch, and others"
    assert_refused(f"nothing to compare among torch: {expected}", [run("torch")])
    two = [run("torch", seed=1), run("torch", seed=0)]
    assert_refused(f"nothing to compare among torch,seed=1, torch,seed=0: {expected}", two)


def test_runs_of_other_lengths_or_outputs_are_refused() -> None:
    message = r"epochs=1: 4 steps, outputs of shape \[4, 3\] and torch,epochs=2: 2 steps, outputs of shape \[4, 3\];"
    assert_refused(message, [run("torch", epochs=2, steps=2), run("torch", epochs=1)], by="epochs", reference="2")
    wide, other, short = run("scratch"), run("scratch"), run("scratch")
    wide.probes = {step: torch.ones(4, 100) for step in wide.probes}
    assert_refused(r"outputs of shape \[4, 100\]", [run("torch"), wide])
    other.probes[3] = other.probes.pop(2)
    assert_refused("looked at after the same", [run("torch"), other])
    del short.probes[0]
    assert len(pairs([run("torch"), short])) == 1, "the outputs before the first step are not needed"
