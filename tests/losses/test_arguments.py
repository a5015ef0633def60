"""What PyTorch refuses is refused by the same exception, and what it takes is taken."""

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

REFUSED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "an integer input": (T[None], T[:1], {}),
    "a complex input": (Z + 0j, T, {}),
    "a 1-byte float": (Z.to(torch.float8_e4m3fn), T, {}),
    "no dimension": (tensor(1.0), tensor(1.0), {}),
    "no classes": (Z[:, :0], T, {}),
    "another batch": (Z, T[:2], {}),
    "indices of the input's shape": (Z, torch.zeros_like(Z).long(), {}),
    "indices of another rank": (Z, T[:, None], {}),
    "indices of another extent": (Z.view(2, 3, 2), T.view(2, 2)[:, :1], {}),
    "too few target dimensions": (Z.view(2, 3, 2), T[:2], {}),
    "two targets for one row": (Z[0], T[:2], {}),
    "floats of the target's shape": (Z, T.float(), {}),
    "probabilities of another shape": (Z, Z[:, :2], {}),
    "int32 indices": (Z, T.int(), {}),
    "bool indices": (Z, T.bool(), {}),
    "a target too large": (Z, tensor([0, 1, 3, 7]), {}),
    "a negative target": (Z, tensor([0, 1, -1, 1]), {}),
    "a negative target, smoothed": (Z, tensor([0, 1, -1, 1]), {"label_smoothing": 0.1}),
    "a negative target, weighted": (Z, tensor([0, 1, -1, 1]), {"weight": torch.ones(3)}),
    "a negative target, not reduced": (Z, tensor([0, 1, -1, 1]), {"reduction": "none"}),
    "a target too large of one row": (Z[0], tensor(3), {}),
    "a negative target of images": (Z.view(2, 3, 2), tensor([[0, -1], [1, 1]]), {}),
    "an unknown reduction": (Z, T, {"reduction": "avg"}),
    "smoothing over 1": (Z, T, {"label_smoothing": 1.5}),
    "a list as smoothing": (Z, T, {"label_smoothing": [0.1]}),
    "too many weights": (Z, T, {"weight": torch.ones(4)}),
    "weights of rank 2": (Z, T, {"weight": torch.ones(3, 1)}),
    "weights of another dtype": (Z, T, {"weight": torch.ones(3).double()}),
    "weights to be learnt": (Z, T, {"weight": torch.ones(3, requires_grad=True)}),
    "a float ignore_index": (Z, T, {"ignore_index": 1.0}),
    "an index to ignore in probabilities": (Z, Z, {"ignore_index": 1}),
    "no target": (Z, None, {}),
    "a list of weights": (Z, T, {"weight": [1.0, 1.0, 1.0]}),
}


@each_function
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_pytorchs_words(loss: Loss, case: str) -> None:
    input, target, arguments = REFUSED[case]
    with pytest.raises(Exception) as theirs:
        reference(input, target, **arguments)
    with pytest.raises(theirs.type) as ours:
        loss(input, target, **arguments)
    assert ours.type is theirs.type
    assert str(ours.value) == str(theirs.value)


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
        with pytest.raises(TypeError, match="ignore_index"):
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
    with pytest.warns(UserWarning, match="'elementwise_mean' is deprecated"):
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
