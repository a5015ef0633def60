"""What a recorder says, in a line, of a loop that misuses it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xent.recording import BadInput, Recorder


def zeros() -> Tensor:
    return torch.zeros(2)


def step_twice(recorder: Recorder) -> None:
    recorder.step(1.0, zeros)
    recorder.step(1.0, zeros)


def change_shape(recorder: Recorder) -> None:
    recorder.begin(lambda: torch.zeros(3))
    recorder.step(1.0, zeros)


def probe_indices(recorder: Recorder) -> None:
    recorder.step(1.0, lambda: torch.ones(1).argmax(keepdim=True))


def nudge_twice(recorder: Recorder) -> None:
    model = nn.Linear(1, 1)
    recorder.nudge(model)
    recorder.nudge(model)


def nudge_late(recorder: Recorder) -> None:
    recorder.step(1.0, zeros)
    recorder.nudge(nn.Linear(1, 1))


def go_on_otherwise(recorder: Recorder) -> None:
    recorder.load_state_dict(Recorder(steps=2, settings={"kernel": "b"}).state_dict())


MISUSES: dict[str, Callable[[Recorder], None]] = {
    r"step.. was called more than steps=1 times: give the number of steps you make": step_twice,
    r"finish.. after 0 of 1 steps: make them all, or give fewer": lambda recorder: recorder.finish(),
    r"step.. got a loss of shape .3.: expected a scalar": lambda recorder: recorder.step(torch.ones(3), zeros),
    r"the probe made torch.int64 of shape .1.: expected a tensor of floating point": lambda r: r.step(
        1.0, lambda: torch.ones(1).int().long()
    ),
    r"the probe made torch.float32 of shape .0.: expected": lambda r: r.step(1.0, lambda: torch.zeros(0)),
    r"nudge.. got the same module twice": nudge_twice,
    "the probe made tuple: expected a tensor": lambda recorder: recorder.step(1.0, lambda: (zeros(),)),  # type: ignore
    r"the probe made torch.float32 of shape .3. and torch.float32 of shape .2., after 1 steps": change_shape,
    r"nudge.. after 1 steps: nudge the model first": nudge_late,
    r"reorder.. got tensors of 2 and 3 samples along dim 0": lambda r: r.reorder(torch.ones(2), torch.ones(3)),
    r"reorder.. got tensors of no samples": lambda recorder: recorder.reorder(),
    r"reorder.. got a str: expected tensors, or lists": lambda recorder: recorder.reorder({"x": ["a"]}),
    "the state is that of a run with kernel=b, not a, steps=2, not 1: give its settings": go_on_otherwise,
}


@pytest.mark.parametrize("message", MISUSES)
def test_a_misuse_is_told_in_a_line(message: str) -> None:
    with pytest.raises(BadInput, match=message) as told:
        MISUSES[message](Recorder(steps=1, settings={"kernel": "a"}))
    assert "\n" not in str(told.value)
