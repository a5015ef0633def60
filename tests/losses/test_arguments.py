"""What PyTorch refuses is refused by the same exception, and what it takes is taken."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import Tensor, distributed, nn, tensor
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy as reference
from torch.utils.checkpoint import checkpoint

from tests.helpers.drop_ins import Call, Loss, each_module

Z = torch.linspace(-1, 1, 12).view(4, 3)
T = tensor([0, 1, 2, 1])


def assert_same_outcome(loss: Loss, input: Any, target: Any, arguments: dict[str, Any]) -> None:
    """The value is PyTorch's, or the exception is."""
    try:
        expected = reference(input, target, **arguments)
    except Exception as theirs:
        with pytest.raises(Exception) as ours:
            loss(input, target, **arguments)
        assert (ours.type, str(ours.value)) == (type(theirs), str(theirs))
    else:
        torch.testing.assert_close(loss(input, target, **arguments), expected, equal_nan=True)


@st.composite
def any_calls(draw: st.DrawFn) -> Call:
    """What fits together, or not."""
    shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4)
    input = torch.ones(draw(shapes), dtype=draw(st.sampled_from([torch.float32, torch.float64, torch.int64])))
    dtype = draw(st.sampled_from([torch.int64, torch.int64, torch.uint8, torch.int32, torch.float32, torch.bool]))
    fitting = input.shape[:1] + input.shape[2:] if input.ndim > 1 else torch.Size()
    target = torch.full(draw(st.sampled_from([fitting, input.shape, draw(shapes)])), draw(st.integers(-2, 4))).to(dtype)
    optional: dict[str, Any] = {
        "weight": st.builds(torch.ones, st.integers(1, 3), dtype=st.sampled_from([input.dtype, torch.half])),
        "reduction": st.sampled_from(["mean", "sum", "none", "average", ""]),
        "ignore_index": st.integers(-2, 2),
    }
    if dtype != torch.uint8:  # PyTorch's smoothing stumbles over bytes, ours does not
        optional["label_smoothing"] = st.sampled_from([0.0, 0.5, 1.0, 2.0])
    return input, target, draw(st.fixed_dictionaries({}, optional=optional))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(call=any_calls())
def test_what_pytorch_refuses_is_refused_in_its_words_and_nothing_else(loss: Loss, call: Call) -> None:
    assert_same_outcome(loss, *call)


# What `any_calls` does not draw, or with these words.
CALLS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a complex input": (Z + 0j, T, {}),
    "a 1-byte float": (Z.to(torch.float8_e4m3fn), T, {}),
    "no dimension": (tensor(1.0), tensor(1.0), {}),
    "no classes": (Z[:, :0], T, {}),
    "two targets too large": (Z, tensor([0, 1, 3, 7]), {}),
    "a negative target, smoothed": (Z, tensor([0, 1, -1, 1]), {"label_smoothing": 0.1}),
    "a negative target, weighted": (Z, tensor([0, 1, -1, 1]), {"weight": torch.ones(3)}),
    "a list as smoothing": (Z, T, {"label_smoothing": [0.1]}),
    "weights of rank 2": (Z, T, {"weight": torch.ones(3, 1)}),
    "weights to be learnt": (Z, T, {"weight": torch.ones(3, requires_grad=True)}),
    "no target": (Z, None, {}),
    "a list of weights": (Z, T, {"weight": [1.0, 1.0, 1.0]}),
    "a reduction by its old name, which is taken": (Z, T, {"reduction": "elementwise_mean"}),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_input_is_refused_in_pytorchs_words(loss: Loss, case: str) -> None:
    assert_same_outcome(loss, *CALLS[case])


def test_smoothing_below_0_is_refused_where_pytorch_takes_it_for_0(loss: Loss) -> None:
    for smoothing in (-0.5, float("nan")):
        with pytest.raises(RuntimeError, match="label_smoothing is"):
            loss(Z, T, label_smoothing=smoothing)


def test_what_counts_as_an_integer_is_pytorchs(loss: Loss) -> None:
    kinds = [int, float, complex, str, bool, np.bool_, np.float32, np.int8, np.int64, np.uint8, np.uint64, np.array]
    kinds += [tensor, lambda n: [n], lambda n: tensor([n]), lambda _: None]
    kinds += [lambda n: type("Index", (), {"__index__": lambda _: n})()]
    for ignored in (kind(n) for kind in kinds for n in range(4)):
        assert_same_outcome(loss, Z, T, {"ignore_index": ignored})


def test_a_wrong_target_among_many_is_told_by_pytorch(loss: Loss) -> None:
    """Where no value may be looked at, what explains an error leaves it alone."""
    for arguments in ({}, {"label_smoothing": 0.1}, {"ignore_index": 1}):
        with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
            torch.vmap(partial(loss, **arguments))(torch.stack([Z, Z]), torch.stack([T, tensor([0, 1, 7, 1])]))


@each_module
def test_a_module_is_pytorchs_in_all_but_the_computation(module: type[nn.Module]) -> None:
    logits, arguments = Z.clone().requires_grad_(), {"ignore_index": 1, "reduction": "sum", "label_smoothing": 0.1}
    ours, theirs = (each(tensor([1.0, 2.0, 3.0]), **arguments) for each in (module, nn.CrossEntropyLoss))
    assert isinstance(ours, nn.CrossEntropyLoss) and module.__name__ in repr(ours)
    assert ours.state_dict().keys() == theirs.state_dict().keys() == {"weight"}
    theirs.load_state_dict(ours.state_dict())
    value = ours(logits, T)
    torch.testing.assert_close(value, theirs(Z, T))
    assert torch.equal(copy.deepcopy(ours)(Z, T), value)
    assert torch.equal(functional_call(ours, ours.state_dict(), (Z, T)), value)
    again = checkpoint(ours, logits, T, use_reentrant=False)
    assert torch.equal(*(torch.autograd.grad(x, logits)[0] for x in (again, value)))
    traced = torch.fx.symbolic_trace(ours)  # a call as one of PyTorch's
    (call,) = (node.target.__name__ for node in traced.graph.nodes if node.op == "call_function")
    assert "cross_entropy" in call and torch.equal(traced(Z, T), value)
    assert ours.double()(Z.double(), T).dtype == torch.float64


@each_module
def test_it_is_exported_with_a_symbolic_number_of_classes(module: type[nn.Module]) -> None:
    class LastIgnored(nn.Module):
        def forward(self, logits: Tensor, target: Tensor, loss: Any = module) -> list[Tensor]:
            last = logits.shape[1] - 1
            return [loss(ignore_index=last, label_smoothing=smoothing)(logits, target) for smoothing in (0.0, 0.1)]

    shapes = {"logits": {1: torch.export.Dim("classes", min=2, max=50)}, "target": None}
    exported = torch.export.export(LastIgnored(), (Z, T), dynamic_shapes=shapes).module()
    for logits in (Z, torch.randn(4, 7)):
        torch.testing.assert_close(exported(logits, T), LastIgnored()(logits, T, nn.CrossEntropyLoss))


@pytest.mark.skipif(Version(torch.__version__) < Version("2.14"), reason="an older PyTorch splits no amax")
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"reduction": "none"}])
@pytest.mark.parametrize("dim", [0, 1])
def test_logits_split_over_processes(loss: Loss, arguments: Any, dim: int, request: pytest.FixtureRequest) -> None:
    """Over one, which holds all. The targets of two rows are far below the largest logit."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    request.addfinalizer(distributed.destroy_process_group)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    logits = Z - tensor([0.0, 200.0, 200.0, 0.0])[:, None] * nn.functional.one_hot(T, 3)

    def value_and_gradient(f: Loss) -> list[Tensor]:
        split = distribute_tensor(logits, mesh, [Shard(dim)]).requires_grad_()
        value = f(split, distribute_tensor(T, mesh, [Shard(0) if dim == 0 else Replicate()]), **arguments)
        value.sum().backward()
        return [value.full_tensor(), split.grad.full_tensor()]

    torch.testing.assert_close(value_and_gradient(loss), value_and_gradient(reference))
