"""assert_same_training: trainings of anyone's, right, wrong, and such that cannot be compared."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import xent
from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.testing import assert_same_training

Loss = Callable[[Tensor, Tensor], Tensor]
FIXED = torch.linspace(-1, 1, 32 * 6, dtype=torch.float64).view(32, 6)


def train(
    recorder: Recorder,
    dtype: torch.dtype,
    loss: Loss = cross_entropy,
    seed: int | None = None,
    data_seed: int | None = None,
    layers: nn.Module | None = None,
    lr: float = 0.1,
) -> None:
    """A small training of one's own, in which something may be done wrongly."""
    torch.manual_seed(recorder.seed if seed is None else seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), layers or nn.Identity(), nn.Linear(16, 3)).to(dtype)
    recorder.nudge(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(recorder.seed if data_seed is None else data_seed)
    for _ in range(recorder.steps):
        x = torch.randn(24, 6, generator=generator, dtype=torch.float64)
        y = (x @ torch.eye(6, 3, dtype=torch.float64)).argmax(1)
        x, y = recorder.reorder(x.to(dtype), y)
        value = loss(model(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        recorder.step(value, probe=lambda: model(FIXED.to(dtype)))


prove = partial(assert_same_training, reference=train, steps=100)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_right_trainings_pass_in_every_precision(dtype: torch.dtype) -> None:
    prove(partial(train, loss=xent.cross_entropy), dtype=dtype)


def test_a_function_that_takes_no_dtype_is_judged_in_its_own() -> None:
    def in_float32(recorder: Recorder) -> None:
        train(recorder, torch.float32)

    seeds: set[int] = set()

    def also(recorder: Recorder) -> None:
        seeds.add(recorder.seed)
        train(recorder, torch.float32, xent.cross_entropy)

    assert_same_training(also, in_float32, steps=50)
    assert seeds == {0, 1, 2, 3}, "where rounding hides more, more seeds"


def test_a_wrong_training_is_told_with_evidence() -> None:
    def wrong(logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target) * (1 + 1e-9)

    with pytest.raises(AssertionError) as told:
        prove(partial(train, loss=wrong))
    lines = str(told.value).splitlines()
    assert lines[0] == "training is different from training with the reference"
    names = [
        "decades above",
        "left the floor",
        "loss at step 1",
        "expected",
        "distance of the outputs",
        "of those of nudged",
    ]
    assert all(line.split(name)[0] == "  " for name, line in zip(names, lines[1:], strict=True))
    value, expected = (float(line.split()[-1]) for line in lines[3:5])
    assert 0 < value / expected - 1 < 1e-8


def test_other_weights_or_batches_are_told_as_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="it got other first weights than the reference: draw weights"):
        prove(partial(train, seed=5))
    with pytest.raises(AssertionError, match="it got another batch at step 1 than the reference"):
        prove(partial(train, data_seed=5))


def test_a_training_that_learns_nothing_proves_nothing() -> None:
    still = partial(train, lr=1e-9)
    with pytest.raises(AssertionError, match="nothing was proved: nothing learned\n  try more steps"):
        assert_same_training(still, still, steps=40)


def numbered() -> Callable[..., Any]:
    """A training that draws its weights from how often it was called."""
    calls = iter(range(100))
    return lambda recorder, dtype: train(recorder, dtype, seed=next(calls))


def unnudged(recorder: Recorder) -> None:
    for step in range(1, recorder.steps + 1):
        recorder.step(1 / step, probe=lambda: torch.ones(3) / (recorder.seed + recorder.steps_made))


def with_other_targets(recorder: Recorder, dtype: torch.dtype) -> None:
    """It reorders the inputs and not the targets."""
    plain = recorder.reorder
    recorder.reorder = lambda x, y: (plain(x), y)  # type: ignore[method-assign]
    train(recorder, dtype)


def of_one_seed(recorder: Recorder) -> None:
    train(recorder, torch.float32, seed=0, data_seed=0)


CANNOT: dict[str, Callable[..., None]] = {
    "the reference of seed 0 and nudge 1 got other first weights than the reference of seed 0": numbered(),
    "nudge 1 is bitwise identical to the reference of seed 0, its nudge changed nothing": unnudged,
    "rounding does not explain that in float64: turn dropout off, seed every random draw": partial(
        train, layers=nn.Dropout(0.5)
    ),
    "reorder inputs and targets alike": with_other_targets,
    "seeds 0 and 1 train alike: draw from recorder.seed, or give seeds=1": of_one_seed,
}


@pytest.mark.parametrize("message", CANNOT)
def test_a_reference_that_is_no_measure_is_refused(message: str) -> None:
    with pytest.raises(BadInput, match=message):
        assert_same_training(CANNOT[message], CANNOT[message], steps=40)


def test_dropout_is_seen_in_float32_too() -> None:
    with pytest.raises(BadInput, match="rounding does not explain that in float32: turn dropout off"):
        prove(
            partial(train, layers=nn.Dropout(0.02)),
            reference=partial(train, layers=nn.Dropout(0.02)),
            dtype=torch.float32,
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mistake_that_one_seed_alone_meets_is_seen(dtype: torch.dtype) -> None:
    def wrong(recorder: Recorder, dtype: torch.dtype) -> None:
        train(recorder, dtype, lr=0.1 * (1.01 if recorder.seed == 3 else 1))

    with pytest.raises(AssertionError, match="training is different"):
        prove(wrong, dtype=dtype, seeds=4)


def test_a_dtype_that_was_given_already_is_kept_and_no_seeds_are_refused() -> None:
    seen: set[torch.dtype] = set()

    def noting(recorder: Recorder, dtype: torch.dtype) -> None:
        seen.add(dtype)
        train(recorder, dtype)

    in_float32 = partial(noting, dtype=torch.float32)
    assert_same_training(in_float32, in_float32, steps=40, seeds=1)
    assert seen == {torch.float32}
    for counts in ({"seeds": 0}, {"nudges": 0}):
        with pytest.raises(BadInput, match="expected 1 or more of each"):
            assert_same_training(train, train, steps=40, **counts)


def test_trainings_of_other_outputs_are_refused() -> None:
    def wide(recorder: Recorder) -> None:
        train(recorder, torch.float64)
        recorder.trace.probes = {step: outputs[:2] for step, outputs in recorder.trace.probes.items()}

    with pytest.raises(
        BadInput, match=r"the training of seed 0: 100 steps, outputs of shape \[2, 3\] and the reference"
    ):
        prove(wide)


def test_what_is_drawn_from_pytorchs_generator_is_the_same_in_both() -> None:
    def unseeded(recorder: Recorder, dtype: torch.dtype) -> None:
        train(recorder, dtype, seed=int(torch.randint(100, ())), data_seed=int(torch.randint(100, ())))

    prove(unseeded, reference=unseeded, steps=40)


def test_two_hundred_steps_are_made_if_none_are_given() -> None:
    made = []

    def counting(recorder: Recorder, dtype: torch.dtype) -> None:
        train(recorder, dtype)
        made.append(recorder.steps_made)

    assert_same_training(counting, counting, nudges=1)
    assert made == [200] * 3


def test_pytorchs_generator_of_random_numbers_is_left_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    prove(train)
    assert torch.equal(torch.rand(1), expected)
