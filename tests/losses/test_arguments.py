"""What PyTorch refuses is refused, by the same kind of exception, with what was given and what is expected."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, nn, tensor
from torch.nn.functional import cross_entropy as reference

from tests.helpers.drop_ins import Loss, each_function, each_module

Z = torch.linspace(-1, 1, 12).view(4, 3)
T = tensor([0, 1, 2, 1])

REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "an integer input": (T[None], T[:1], {}, "input is torch.int64: expected float16"),
    "a complex input": (Z + 0j, T, {}, "input is torch.complex64"),
    "a 1-byte float": (Z.to(torch.float8_e4m3fn), T, {}, "input is torch.float8_e4m3fn"),
    "no dimension": (tensor(1.0), tensor(1.0), {}, "input has no dimension"),
    "no classes": (Z[:, :0], T, {}, r"input of shape \(4, 0\) has no class"),
    "another batch": (Z, T[:2], {}, r"target is torch.int64 of shape \(2\): expected class indices of shape \(4\)"),
    "indices of the input's shape": (
        Z,
        torch.zeros_like(Z).long(),
        {},
        "target is torch.int64 of the input's shape: expected a floating",
    ),
    "indices of another rank": (Z, T[:, None], {}, r"of shape \(4, 1\): expected class indices of shape \(4\)"),
    "indices of another extent": (
        Z.view(2, 3, 2),
        T.view(2, 2)[:, :1],
        {},
        r"of shape \(2, 1\): expected class indices of shape \(2, 2\)",
    ),
    "too few target dimensions": (
        Z.view(2, 3, 2),
        T[:2],
        {},
        r"of shape \(2\): expected class indices of shape \(2, 2\)",
    ),
    "two targets for one row": (Z[0], T[:2], {}, r"of shape \(2\): expected class indices of shape \(\)"),
    "floats of the target's shape": (
        Z,
        T.float(),
        {},
        r"torch.float32 of shape \(4\): .* or probabilities of shape \(4, 3\)",
    ),
    "probabilities of another shape": (Z, Z[:, :2], {}, r"of shape \(4, 2\): .* or probabilities of shape \(4, 3\)"),
    "int32 indices": (Z, T.int(), {}, "target is torch.int32 .* and type torch.int64 or torch.uint8"),
    "bool indices": (Z, T.bool(), {}, "target is torch.bool"),
    "a target too large": (Z, tensor([0, 1, 3, 7]), {}, "target holds 3, 7: expected classes 0 to 2"),
    "a negative target": (Z, tensor([0, 1, -1, 1]), {}, "target holds -1: expected classes 0 to 2"),
    "a negative target, smoothed": (Z, tensor([0, 1, -1, 1]), {"label_smoothing": 0.1}, "target holds -1"),
    "a negative target, weighted": (Z, tensor([0, 1, -1, 1]), {"weight": torch.ones(3)}, "target holds -1"),
    "a negative target of images": (Z.view(2, 3, 2), tensor([[0, -1], [1, 1]]), {}, "target holds -1"),
    "an unknown reduction": (Z, T, {"reduction": "avg"}, "reduction is 'avg': expected one of mean, sum, none"),
    "smoothing over 1": (Z, T, {"label_smoothing": 1.5}, "label_smoothing is 1.5: expected a number from 0 to 1"),
    "a list as smoothing": (Z, T, {"label_smoothing": [0.1]}, "label_smoothing is list: expected a number"),
    "too many weights": (Z, T, {"weight": torch.ones(4)}, r"weight is of shape \(4\): expected \(3\)"),
    "weights of rank 2": (Z, T, {"weight": torch.ones(3, 1)}, r"weight is of shape \(3, 1\)"),
    "weights of another dtype": (
        Z,
        T,
        {"weight": torch.ones(3).double()},
        "weight is torch.float64: expected torch.fl",
    ),
    "weights to be learnt": (Z, T, {"weight": torch.ones(3, requires_grad=True)}, "weight requires a gradient"),
    "a float ignore_index": (Z, T, {"ignore_index": 1.0}, "ignore_index is float: expected int"),
    "an index to ignore in probabilities": (Z, Z, {"ignore_index": 1}, "class probabilities have no index to ignore"),
    "no target": (Z, None, {}, "target is NoneType: expected a Tensor"),
    "a list of weights": (Z, T, {"weight": [1.0, 1.0, 1.0]}, "weight is list: expected a Tensor"),
}


@each_function
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(loss: Loss, case: str) -> None:
    input, target, arguments, message = REFUSED[case]
    with pytest.raises(Exception) as theirs:
        reference(input, target, **arguments)
    with pytest.raises(theirs.type, match=message) as ours:
        loss(input, target, **arguments)
    assert ours.type is theirs.type
    assert "\n" not in str(ours.value)


@each_function
@pytest.mark.parametrize("smoothing", [-0.5, float("nan")])
def test_smoothing_below_0_is_refused_where_pytorch_takes_it_for_0(loss: Loss, smoothing: float) -> None:
    with pytest.raises(RuntimeError, match="label_smoothing is"):
        loss(Z, T, label_smoothing=smoothing)


@each_module
def test_the_module_takes_what_pytorchs_takes(module: type[nn.Module]) -> None:
    weight = tensor([1.0, 2.0, 3.0])
    ours, theirs = (m(weight=weight, ignore_index=1, label_smoothing=0.1) for m in (module, nn.CrossEntropyLoss))
    assert ours.state_dict().keys() == theirs.state_dict().keys() == {"weight"}
    assert isinstance(ours, nn.CrossEntropyLoss)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(Z, T), theirs(Z, T))
    assert next(ours.double().buffers()).dtype == torch.float64


class Index:
    """What Python takes for an integer."""

    def __index__(self) -> int:
        return 1


NUMPYS = [getattr(np, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
OTHERS = [int, float, complex, str, bool, np.bool_, np.float32, np.array, tensor]
MADE = [lambda n: [n], lambda n: tensor([n]), lambda _: Index(), lambda _: None]
NUMBERS = st.sampled_from([*NUMPYS, *OTHERS, *MADE])


@each_function
@settings(max_examples=100, deadline=None, derandomize=True)
@given(kind=NUMBERS, value=st.integers(0, 3))
def test_what_counts_as_an_integer_is_pytorchs(loss: Loss, kind: Any, value: int) -> None:
    try:
        expected = reference(Z, T, ignore_index=kind(value))
    except TypeError:
        with pytest.raises(TypeError, match="ignore_index is .*: expected int"):
            loss(Z, T, ignore_index=kind(value))
    else:
        torch.testing.assert_close(loss(Z, T, ignore_index=kind(value)), expected, equal_nan=True)


@each_module
def test_a_number_of_classes_may_be_symbolic(module: type[nn.Module]) -> None:
    class LastIgnored(nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return module(ignore_index=logits.shape[1] - 1)(logits, target)

    shapes = {"logits": {1: torch.export.Dim("classes", min=2, max=50)}, "target": None}
    exported = torch.export.export(LastIgnored(), (Z, T), dynamic_shapes=shapes).module()
    for logits in (Z, torch.randn(4, 7)):
        torch.testing.assert_close(exported(logits, T), reference(logits, T, ignore_index=logits.shape[1] - 1))


@each_function
def test_a_reduction_by_its_old_name(loss: Loss) -> None:
    with pytest.warns(UserWarning, match="'elementwise_mean' is deprecated, please use reduction='mean'"):
        assert torch.equal(loss(Z, T, reduction="elementwise_mean"), loss(Z, T))


@each_function
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}])
def test_a_wrong_target_among_many_is_told_by_pytorch(loss: Loss, arguments: dict[str, Any]) -> None:
    """Where no value may be looked at, what explains an error leaves it alone."""
    targets = torch.stack([T, tensor([0, 1, 7, 1])])
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        torch.vmap(lambda z, t: loss(z, t, **arguments))(torch.stack([Z, Z]), targets)


@each_module
def test_torch_fx_traces_a_call_as_one_of_pytorchs(module: type[nn.Module]) -> None:
    loss = module(label_smoothing=0.1)
    traced = torch.fx.symbolic_trace(loss)
    calls = [node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"]
    assert len(calls) == 1 and "cross_entropy" in calls[0]
    assert torch.equal(traced(Z, T), loss(Z, T))


@pytest.fixture
def mesh() -> Iterator[Any]:
    """One process that holds all of a tensor that is split."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@each_function
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"reduction": "none"}])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("behind", [0.0, 200.0])
def test_logits_split_over_processes(loss: Loss, arguments: dict[str, Any], dim: int, behind: float, mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    logits = Z - behind * nn.functional.one_hot(T, 3)

    def gradient(f: Loss) -> list[Tensor]:
        split = distribute_tensor(logits, mesh, [Shard(dim)]).requires_grad_()
        target = distribute_tensor(T, mesh, [Shard(0) if dim == 0 else Replicate()])
        value = f(split, target, **arguments)
        value.sum().backward()
        return [value.full_tensor(), split.grad.full_tensor()]

    torch.testing.assert_close(gradient(loss), gradient(reference))
