"""Sketches keep distances, and a captured step has every tensor once, in order."""

import gc
import pickle
import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.checkpoint import checkpoint

from xent.recording import BadInput, Recorder, capture
from xent.recording.capture import Call, Capture, Captured, Key
from xent.recording.sketch import ROWS, SUMS, sketch
from xent.recording.trace import load

X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)


@pytest.mark.parametrize("shape", [(7,), (256, 256), (64, 257), (31, 1, 101), (3, ROWS * SUMS)])
def test_the_distance_of_sketches_is_that_of_the_tensors(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    one, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    unit = torch.zeros(shape, dtype=torch.float64)
    unit[..., 1] = 1.0
    one_unit = [unit] if shape[-1] % SUMS else []  # in a layer of 257, all of it is in one sum
    for difference in (noise, torch.full(shape, 1e-9, dtype=torch.float64), *one_unit):
        kept = (sketch(one + difference) - sketch(one)).norm() / difference.norm()
        assert kept == pytest.approx(1, abs=0.15)
    torch.testing.assert_close(sketch(one) + 2 * sketch(noise), sketch(one + 2 * noise), rtol=1e-9, atol=1e-9)


def test_sketches_of_few_or_special_numbers() -> None:
    few = torch.tensor([1.0, torch.inf, -torch.inf, 2.0])
    assert sketch(few).tolist() == [1, 0, 0, 2] and sketch(torch.tensor([-1e38, torch.nan])).tolist() == [0, 0]
    assert sketch(torch.tensor([True, False])).tolist() == [1, 0]
    assert sketch(torch.tensor([1 + 2j])).tolist() == [1, 2]
    assert sketch(torch.eye(2).to_sparse()).tolist() == [1, 0, 0, 1]
    numbers = torch.randn(30, 40)
    assert torch.equal(sketch(numbers.T), sketch(numbers.T.contiguous())), "the order is that of the elements"


def captured(model: nn.Module, optimizer: Any = None, forward: Callable[[], Tensor] | None = None) -> list[str]:
    """The names of what is captured in a step."""
    one = Capture([model])
    loss = (forward or (lambda: model(X)))().square().mean()
    loss.backward()
    (optimizer or SGD(model.parameters(), 0.1)).step()
    return list(map(str, one.finish(loss)))


def named(tensors: dict[Key, Captured]) -> dict[str, Captured]:
    return {str(key): tensor for key, tensor in tensors.items()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)).double()


WEIGHTS = ["weight 0.weight", "weight 0.bias"]
FORWARD = ["input of model", "input of 0", "output of 0", "input of 1", "output of 1", "output of model"]
GRADIENTS = ["gradient at the output of model", "gradient at the output of 1", "gradient at the output of 0"]
BACKWARD = [*GRADIENTS, "gradient of 0.weight", "gradient of 0.bias"]
UPDATES = ["update of 0.weight", "update of 0.bias"]
STEP = [*WEIGHTS, *FORWARD, "loss", *BACKWARD, *UPDATES]


def sorted_gradients(names: list[str]) -> list[str]:
    """Names with the gradients at one and the same tensor in the order of GRADIENTS."""
    return [name for name in names if name not in GRADIENTS[:2]]


def test_a_step_is_captured_in_order_from_weights_to_updates() -> None:
    names = captured(network())
    assert sorted(names) == sorted(STEP)
    assert sorted_gradients(names) == sorted_gradients(STEP)


def test_what_is_captured_is_what_it_is_called() -> None:
    model = network()
    hidden = model[0](X).detach().flatten()
    one, optimizer = Capture([model]), SGD(model.parameters(), 0.1, momentum=0.9)
    outputs = model(X)
    loss = outputs.square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    tensors = named(one.finish(loss))
    gradient = model[0].weight.grad
    assert gradient is not None
    sketches = {name: tensor.sketch for name, tensor in tensors.items()}
    assert torch.equal(sketches["output of 0"], hidden), "before it was changed in place"
    assert torch.equal(sketches["output of model"], outputs.detach().flatten())
    torch.testing.assert_close(sketches["gradient at the output of model"], (outputs / 6).detach().flatten())
    assert torch.equal(sketches["gradient of 0.weight"], gradient.flatten()), "after clipping"
    torch.testing.assert_close(sketches["update of 0.weight"], -0.1 * gradient.flatten())
    assert tensors["output of 1"][:3] == ((4, 3), "ReLU", Call("model", 1))
    assert not model._forward_hooks and not model._forward_pre_hooks, "no hook is left"


def test_evaluations_and_what_a_checkpoint_repeats_are_not_captured() -> None:
    model = network()

    def forward() -> Tensor:
        with torch.no_grad():
            model(X)
        output: Tensor = checkpoint(model, X.clone().requires_grad_(), use_reentrant=False)
        return output

    assert sorted(captured(model, forward=forward)) == sorted(STEP)
    assert captured(network(), forward=lambda: model(X)) == [*WEIGHTS, "loss", *UPDATES], "of another model"


def test_calls_are_numbered_and_tied_weights_captured_once() -> None:
    model = network()
    model.add_module("2", nn.Linear(3, 3).double())
    model[2].weight = model[0].weight
    names = captured(model, forward=lambda: model(X) + model(2 * X))
    assert [name for name in names if name.startswith("input of 2")] == ["input of 2", "input of 2 #2"]
    assert [name for name in names if name.startswith("gradient at the output of 2")] == [
        "gradient at the output of 2 #2",
        "gradient at the output of 2",
    ]
    assert [name for name in names if name.startswith("update")] == [*UPDATES, "update of 2.bias"]


class Masked(nn.Module):
    def forward(self, x: Tensor, *others: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"sum": x + sum(others), "mask": mask, "text": "no tensor"}


def test_every_tensor_among_arguments_and_results_has_a_name() -> None:
    model = Masked()
    one = Capture([model])
    outputs = model(X, X, mask=X > 0)
    inputs = ["input of model", "input of model (1)", "input of model (mask)"]
    outputs_of_both = ["output of model (sum)", "output of model (mask)"]
    assert list(named(one.finish(outputs["sum"].sum()))) == [*inputs, *outputs_of_both, "loss"]


class Wrapper(Optimizer):
    """Scales the gradients, then lets another optimizer make the step, with its closure."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups[0]["params"], {})

    def step(self, closure: Any = None) -> Any:
        for parameter in self.inner.param_groups[0]["params"]:
            parameter.grad.mul_(0.5)
        return self.inner.step(closure)


class Own:
    """An optimizer that is none of PyTorch's, and has no hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def step(self) -> None:
        for parameter in self.model.parameters():
            parameter.data.sub_(0.1 * parameter.grad)  # type: ignore[operator]


def test_gradients_are_those_of_the_innermost_optimizer_and_updates_of_any() -> None:
    for make in (lambda model: Wrapper(SGD(model.parameters(), 0.1)), Own):
        model = network()
        one, optimizer = Capture([model]), make(model)
        loss = model(X).square().mean()
        loss.backward()
        optimizer.step()
        tensors = named(one.finish(loss))
        gradient, update = (tensors[f"{what} of 0.weight"].sketch for what in ("gradient", "update"))
        assert torch.equal(gradient, model[0].weight.grad.flatten())  # type: ignore[union-attr]
        torch.testing.assert_close(update, -0.1 * gradient)
        assert not any("#" in name for name in tensors)


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_makes_the_gradients(as_keyword: bool) -> None:
    model = network()
    one, optimizer = Capture([model]), SGD(model.parameters(), 0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        return loss

    loss: Any = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
    assert sorted_gradients(list(named(one.finish(loss)))) == sorted_gradients(STEP)


def test_a_hook_is_not_copied_nor_saved_with_a_model_and_keeps_nothing_alive() -> None:
    model = network()
    one = Capture([model])
    copy = pickle.loads(pickle.dumps(deepcopy(model)))
    copy(X)
    assert not one._tensors, "what a copy computes"
    gone = weakref.ref(one)
    del one  # as after an exception
    gc.collect()
    assert gone() is None and not model._forward_hooks and not model._forward_pre_hooks
    model(X)


def test_inputs_of_inference_mode_and_scripted_modules_are_no_hindrance() -> None:
    with torch.inference_mode():
        mask = torch.ones(4, 3, dtype=torch.float64)
    model = nn.Sequential(network(), torch.jit.script(nn.ReLU()))
    assert "output of 0" in captured(model, forward=lambda: model(X) + Masked()(X, mask=mask)["sum"])
    masked = Masked()
    one = Capture([masked])
    masked(X, mask=mask)
    assert "input of model (mask)" in named(one.finish(torch.tensor(1.0)))


def test_of_several_processes_modules_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "world_size", lambda: 2)
    assert captured(network()) == [*WEIGHTS, "loss", *BACKWARD[3:], *UPDATES]


def test_what_a_forward_pass_writes_into_a_buffer_is_an_update() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3)).double()
    one = Capture([model])
    model(X)
    tensors = named(one.finish(torch.tensor(1.0)))
    assert torch.equal(tensors["update of 0.running_mean"].sketch, model[0].running_mean)  # type: ignore[arg-type]
    assert tensors["buffer 0.running_mean"].sketch.tolist() == [0, 0, 0]


def test_several_models_are_told_apart() -> None:
    models = [nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU()]
    one = Capture(models)
    models[1](X.float())
    names = list(named(one.finish(torch.tensor(1.0))))
    weights = [f"weight {name}" for name in ("Linear.weight", "Linear.bias", "Linear_2.weight", "Linear_2.bias")]
    assert names[:5] == [*weights, "input of Linear_2"]


def training(recorder: Recorder, stop: int | None = None, state: dict[str, Any] | None = None) -> dict[str, Any]:
    model = network()
    recorder.nudge(model)
    optimizer = SGD(model.parameters(), 0.1)
    if state:
        recorder.load_state_dict(state)
    for _ in range(recorder.steps_made, stop or recorder.steps):
        (x,) = (recorder.reorder(X),)
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, lambda: model(X))
    return recorder.state_dict()


def test_the_recorder_captures_the_steps_that_are_asked_for_and_resumes_in_between(tmp_path: Any) -> None:
    recorder = Recorder(tmp_path, steps=6, nudge=1, where=[2, 5])
    training(recorder, 3)
    resumed = Recorder(tmp_path, steps=6, nudge=1, where=[2, 5])
    training(resumed, state=recorder.state_dict())
    resumed.finish()
    trace = load(tmp_path)
    assert list(trace.captures) == [2, 5]
    assert set(named(trace.captures[2])) == set(named(trace.captures[5])) == set(STEP)
    for key, tensor in resumed.trace.captures[2].items():
        assert torch.equal(trace.captures[2][key].sketch, tensor.sketch)
        assert trace.captures[2][key][:3] == tensor[:3]
    assert torch.equal(named(trace.captures[5])["input of 0"].sketch, X.flatten()), "samples keep their order"
    first = Recorder(steps=6, where=2)
    training(first)
    assert list(first.trace.captures) == [1, 2]
    for where in (-1, 7, [0], [3, 7], [1.5]):
        with pytest.raises(BadInput, match=r"where=.*: expected how many of the first steps to capture, or a list"):
            Recorder(steps=6, where=where)  # type: ignore[arg-type]
