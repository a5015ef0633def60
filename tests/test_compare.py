from pathlib import Path
from typing import Any

import pytest
import torch

from xent.compare import compare, load_runs, main
from xent.errors import BadInput
from xent.trace import Trace


def run(loss: str, shift: float = 0.0, **settings: Any) -> Trace:
    """A run of two steps whose losses and probe logits lie `shift` from those of other runs."""
    return Trace(
        settings={"loss": loss, "loss._target_": f"their.{loss}", "seed": 0, "log_every": 10} | settings,
        losses=torch.tensor([2.0, 1.0], dtype=torch.float64) + shift,
        step=2,
        probe_logits={0: torch.full((4, 3), 3.0), 2: torch.full((4, 3), 2.0) * (1 + shift)},
        tests={2: (0.5, 0.75)},
        name=loss,
    )


def test_the_gap_is_the_relative_distance_of_the_probe_logits() -> None:
    (comparison,) = compare([run("torch"), run("scratch", shift=0.25)])
    assert comparison.gap == {0: 0, 2: 0.25}
    assert comparison.largest_loss_difference == 0.25
    assert not comparison.bitwise_identical


def test_equal_runs_are_bitwise_identical() -> None:
    (comparison,) = compare([run("torch"), run("scratch")])
    assert comparison.bitwise_identical


def test_one_bit_in_one_loss_or_one_probe_logit_is_not_identical() -> None:
    other = run("scratch")
    other.losses[1] = torch.nextafter(other.losses[1], torch.tensor(9.0).double())
    assert not compare([run("torch"), other])[0].bitwise_identical
    other = run("scratch")
    other.probe_logits[2][3, 1] = torch.nextafter(other.probe_logits[2][3, 1], torch.tensor(9.0))
    assert not compare([run("torch"), other])[0].bitwise_identical


def test_each_candidate_meets_the_reference_it_is_matched_with() -> None:
    runs = [run(loss, seed=seed) for loss in ("scratch", "torch", "article") for seed in (0, 1)]
    pairs = [(c.candidate.settings["seed"], c.reference.settings["seed"]) for c in compare(runs)]
    assert sorted(pairs) == [(0, 0), (0, 0), (1, 1), (1, 1)]
    assert all(c.reference.settings["loss"] == "torch" for c in compare(runs))


def test_the_reference_of_a_loss_has_the_same_arguments() -> None:
    runs = [run(loss, **{"loss.label_smoothing": s}) for loss in ("torch", "scratch") for s in (0.0, 0.1)]
    pairs = [[t.settings["loss.label_smoothing"] for t in (c.candidate, c.reference)] for c in compare(runs)]
    assert sorted(pairs) == [[0.0, 0.0], [0.1, 0.1]]
    (comparison,) = compare([run("torch"), run("custom", **{"loss.alpha": 3})])
    assert comparison.reference.settings["loss"] == "torch", "the only one there is"


def test_a_second_reference_run_is_held_against_the_first() -> None:
    first, second = run("torch"), run("torch", shift=1e-3)
    (comparison,) = compare([first, second])
    assert (comparison.reference, comparison.candidate) == (first, second)


def test_a_setting_that_has_no_effect_need_not_match() -> None:
    assert len(compare([run("torch"), run("scratch", log_every=99)])) == 1


def test_runs_that_are_not_matched_are_refused_naming_the_setting() -> None:
    with pytest.raises(BadInput, match=r"they differ in seed \(1 against 0\)"):
        compare([run("torch"), run("scratch", seed=1)])
    with pytest.raises(BadInput, match=r"they differ in seed \(0 against 1\)"):
        compare([run("torch", seed=1), run("torch", seed=0)])
    with pytest.raises(BadInput, match=r"they differ in lr \(0.1 against 0.2\): "):
        compare([run("torch", lr=0.3, seed=1), run("torch", lr=0.2), run("scratch", lr=0.1)])


def test_a_lone_run_or_no_reference_is_nothing_to_compare() -> None:
    for runs in ([run("torch")], [run("scratch"), run("article")]):
        with pytest.raises(BadInput, match="nothing to compare among .* expected a run with loss=torch"):
            compare(runs)


def test_a_sweep_folder_stands_for_its_runs(tmp_path: Path) -> None:
    for loss in ("torch", "scratch"):
        (tmp_path / f"loss={loss}").mkdir()
        run(loss).save(tmp_path / f"loss={loss}")
    (tmp_path / "comparison").mkdir()
    assert [trace.name for trace in load_runs([tmp_path])] == ["loss=scratch", "loss=torch"]
    assert [trace.name for trace in load_runs([tmp_path / "loss=torch"])] == ["loss=torch"]


def test_a_run_is_named_without_what_all_runs_share(tmp_path: Path) -> None:
    for name in ("loss=torch,model=mlp,seed=0", "loss=torch,model=mlp,seed=1"):
        (tmp_path / name).mkdir()
        run("torch").save(tmp_path / name)
    assert [trace.name for trace in load_runs([tmp_path])] == ["seed=0", "seed=1"]


def test_runs_of_several_sweeps_are_named_with_them(tmp_path: Path) -> None:
    for name in ("a/loss=torch", "b/loss=torch"):
        (tmp_path / name).mkdir(parents=True)
        run("torch").save(tmp_path / name)
    assert [t.name for t in load_runs([tmp_path / "a", tmp_path / "b"])] == ["a/loss=torch", "b/loss=torch"]


def test_a_run_that_was_stopped_is_refused(tmp_path: Path) -> None:
    stopped = run("torch")
    stopped.step = 1
    stopped.save(tmp_path)
    with pytest.raises(BadInput, match="was stopped at step 1 of 2"):
        load_runs([tmp_path])


def test_the_command_reports_beside_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for loss in ("torch", "scratch"):
        (tmp_path / loss).mkdir()
        run(loss).save(tmp_path / loss)
    main([str(tmp_path / "torch"), str(tmp_path / "scratch")])
    assert "bit for bit" in capsys.readouterr().out
    assert (tmp_path / "comparison" / "verdict.json").exists()
