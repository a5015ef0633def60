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


def test_nudged_references_are_the_measure_and_no_candidates() -> None:
    (pair,) = pairs([run("scratch"), *nudged(1e-7, 1e-7)[::-1], *nudged(1e-7, seed=1)])
    floor = pair.unnudged, *pair.nudged
    assert [(trace.settings["nudge"], trace.settings["seed"]) for trace in floor] == [(0, 0), (1, 0), (2, 0)]
    matched = pairs([*nudged(1e-7), run("scratch"), run("scratch", nudge=1)])
    assert [pair.reference.settings["nudge"] for pair in matched] == [0, 1], "that of its nudge"
    assert all(pair.unnudged.settings["nudge"] == 0 for pair in matched)


def test_a_run_that_was_trained_twice_is_held_against_the_first_and_a_nudge_counts_once() -> None:
    for first, second in ((run(loss), run(loss, shift=1e-3)) for loss in ("torch", "scratch")):
        (pair,) = pairs([first, second])
        assert (pair.reference, pair.candidate) == (first, second)
    first, second = run("torch", shift=1e-7, nudge=1), run("torch", shift=1e-7, nudge=1)
    matched = pairs([*nudged(), first, second, run("scratch")])
    assert matched[0].candidate is second, "equal to the first in every setting, so a candidate"
    assert [pair.nudged for pair in matched] == [[first], [first]]


def test_the_reference_of_a_candidate_has_the_same_seed_and_arguments_or_there_is_no_other() -> None:
    """No other, as in a sweep over an argument that PyTorch's loss has not, though trained twice."""
    runs = [run(loss, seed=seed) for loss in ("scratch", "torch", "article") for seed in (0, 1)]
    assert both(runs, "seed") == [(0, 0), (1, 1), (0, 0), (1, 1)]
    assert {reference for _, reference in both(runs, "loss")} == {"torch"}
    runs = [run(loss, **{"loss.label_smoothing": s}) for loss in ("torch", "scratch") for s in (0.0, 0.1)]
    assert both(runs, "loss.label_smoothing") == [(0.0, 0.0), (0.1, 0.1)]
    runs = [*nudged(1e-14), run("torch"), run("custom", **{"loss.a": 1}), run("custom", **{"loss.a": 2})]
    assert both(runs, "loss") == [("torch", "torch"), ("custom", "torch"), ("custom", "torch")]


def test_any_setting_can_be_compared_and_what_comes_with_it_may_differ_too() -> None:
    runs = [run("torch", device=device, **{"machine.threads": n}) for device, n in (("cuda", 0), ("cpu", 2))]
    (pair,) = pairs(runs, by="device", reference="cpu")  # another device is another machine
    assert pair.reference.settings["device"] == "cpu"
    processors = (("A", "AVX512"), ("B", "AVX2"))
    runs = [run("torch", **{"machine.processor": a, "machine.instructions": b}) for a, b in processors]
    assert len(pairs(runs, by="machine.processor", reference="A")) == 1
    assert_refused(r"in machine.processor \(A against B\)", runs, by="machine.instructions", reference="AVX2")
    runs = [run("torch", precision=precision, loss_precision=precision) for precision in ("float32", "float64")]
    assert len(pairs(runs, by="precision", reference="float64")) == 1, "the loss is in the precision of the run"


def test_what_is_compared_must_be_a_setting_and_have_a_reference_and_others() -> None:
    runs = [run("torch", device=device) for device in ("cuda", "cpu")]
    assert_refused("--by device: give --reference, one of cuda, cpu", runs, by="device")
    train_one = "train one, or give another reference, one of"
    assert_refused(f"no run has device=mps: {train_one} cuda, cpu", runs, by="device", reference="mps")
    assert_refused(f"no run has loss=torch: {train_one} scratch, article", [run("scratch"), run("article")])
    assert_refused("--by speed: torch,device=cuda has no such setting, but loss, ", runs, by="speed")
    for by in ("seed", "nudge"):
        assert_refused(f"--by {by}: it measures the noise", nudged(1e-7), by=by, reference="0")
    alone = "nothing to compare: every run has loss=torch, expected others beside it"
    assert_refused(alone, [run("torch", seed=1), run("torch", seed=0)])


def test_runs_of_other_settings_or_outputs_are_refused_naming_them() -> None:
    assert_refused(r"they differ in nudge \(2 against 0\)", [*nudged(1e-7), run("scratch", nudge=2)])
    closest = [run("torch", lr=0.3, seed=1), run("torch", lr=0.2), run("scratch", lr=0.1)]
    assert_refused(r"they differ in lr \(0.1 against 0.2\): ", closest)
    machines = [run("torch", **{"machine.threads": 2}), run("scratch", **{"machine.threads": 1})]
    assert_refused(r"they differ in machine.threads \(1 against 2\): ", machines)
    weights = [run(loss, **{"loss.weight": [n]}) for n, loss in enumerate(("torch", "torch", "custom"))]
    assert_refused("they differ in the arguments of loss", weights)
    wide, other, short = run("scratch"), run("scratch"), run("scratch")
    wide.probes = {step: torch.ones(4, 100) for step in wide.probes}
    assert_refused(r"outputs of shape \[4, 100\]", [run("torch"), wide])
    other.probes = {3: other.probes.pop(2)}
    message = r"^scratch: outputs after \[3\] steps and torch: outputs after \[0, 1, 2, 4\] steps; expected some of"
    assert_refused(message, [run("torch"), other])
    del short.probes[0]
    assert len(pairs([run("torch"), short])) == 1, "the outputs before the first step are not needed"
