"""What PyTorch refuses is refused by the same exception, and what it takes is taken."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import Tensor, distributed, nn, tensor
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy as reference
from torch.utils.checkpoint import checkpoint

from tests.helpers.drop_ins import Loss, each_function, each_module

Z = torch.linspace(-1, 1, 12).view(4, 3)
T = tensor([0, 1, 2, 1])

# What test_semantics.py does not draw.
REFUSED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a complex input": (Z + 0j, T, {}),
    "a 1-byte float": (Z.to(torch.float8_e4m3fn), T, {}),
    "no dimension": (tensor(1.0), tensor(1.0), {}),
    "no classes": (Z[:, :0], T, {}),
    "indices of another extent": (Z.view(2, 3, 2), T.view(2, 2)[:, :1], {}),
    "two targets for one row": (Z[0], T[:2], {}),
    "a target too large": (Z, tensor([0, 1, 3, 7]), {}),
    "a negative target": (Z, tensor([0, 1, -1, 1]), {}),
    "a negative target, smoothed": (Z, tensor([0, 1, -1, 1]), {"label_smoothing": 0.1}),
    "a negative target, weighted": (Z, tensor([0, 1, -1, 1]), {"weight": torch.ones(3)}),
    "a target too large of one row": (Z[0], tensor(3), {}),
    "a negative target of images": (Z.view(2, 3, 2), tensor([[0, -1], [1, 1]]), {}),
    "a list as smoothing": (Z, T, {"label_smoothing": [0.1]}),
    "weights of rank 2": (Z, T, {"weight": torch.ones(3, 1)}),
    "weights to be learnt": (Z, T, {"weight": torch.ones(3, requires_grad=True)}),
    "a float ignore_index": (Z, T, {"ignore_index": 1.0}),
    "no target": (Z, None, {}),
    "a list of weights": (Z, T, {"weight": [1.0, 1.0, 1.0]}),
}


@each_function
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_pytorchs_words(loss: Loss, case: str) -> None:
    input, target, arguments = REFUSED[case]
    with pytest.raises(Exception) as theirs:
        reference(input, target, **arguments)
    with pytest.raises(Exception) as ours:
        loss(input, target, **arguments)
    assert (ours.type, str(ours.value)) == (theirs.type, str(theirs.value))


@each_function
@pytest.mark.parametrize("smoothing", [-0.5, float("nan")])
def test_smoothing_below_0_is_refused_where_pytorch_takes_it_for_0(loss: Loss, smoothing: float) -> None:
    with pytest.raises(RuntimeError, match="label_smoothing is"):
        loss(Z, T, label_smoothing=smoothing)


NUMBERS: list[Any] = [int, float, complex, str, bool, np.bool_, np.float32, np.int8, np.int64, np.uint8, np.uint64]
NUMBERS += [np.array, tensor, lambda n: [n], lambda n: tensor([n]), lambda _: None]
NUMBERS += [lambda n: type("Index", (), {"__index__": lambda _: n})()]


@each_function
def test_what_counts_as_an_integer_is_pytorchs(loss: Loss) -> None:
    for ignored in (number(n) for number in NUMBERS for n in range(4)):
        try:
            expected = reference(Z, T, ignore_index=ignored)
        except TypeError:
            with pytest.raises(TypeError, match="ignore_index"):
                loss(Z, T, ignore_index=ignored)
        else:
            torch.testing.assert_close(loss(Z, T, ignore_index=ignored), expected)


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
def test_a_module_is_pytorchs_in_all_but_the_computation(module: type[nn.Module]) -> None:
    logits = Z.clone().requires_grad_()
    arguments: dict[str, Any] = {"weight": tensor([1.0, 2.0, 3.0]), "ignore_index": 1, "reduction": "sum"}
    arguments["label_smoothing"] = 0.1
    ours, theirs = module(**arguments), nn.CrossEntropyLoss(**arguments)
    assert isinstance(ours, nn.CrossEntropyLoss) and module.__name__ in repr(ours)
    assert ours.state_dict().keys() == theirs.state_dict().keys() == {"weight"}
    theirs.load_state_dict(ours.state_dict())
    value = ours(logits, T)
    torch.testing.assert_close(value, theirs(Z, T))
    assert torch.equal(copy.deepcopy(ours)(Z, T), value)
    assert torch.equal(functional_call(ours, ours.state_dict(), (Z, T)), value)
    again = checkpoint(ours, logits, T, use_reentrant=False)
    assert torch.equal(*(torch.autograd.grad(x, logits)[0] for x in (again, value)))
    assert ours.double()(Z.double(), T).dtype == torch.float64


@each_module
def test_torch_fx_traces_a_call_as_one_of_pytorchs(module: type[nn.Module]) -> None:
    loss = module(label_smoothing=0.1)
    traced = torch.fx.symbolic_trace(loss)
    (call,) = (node.target.__name__ for node in traced.graph.nodes if node.op == "call_function")
    assert "cross_entropy" in call
    assert torch.equal(traced(Z, T), loss(Z, T))


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


@pytest.fixture
def mesh() -> Iterator[Any]:
    """One process that holds all of a tensor that is split."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.skipif(Version(torch.__version__) < Version("2.14"), reason="an older PyTorch splits no amax")
@each_function
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"reduction": "none"}])
@pytest.mark.parametrize("dim", [0, 1])
def test_logits_split_over_processes(loss: Loss, arguments: dict[str, Any], dim: int, mesh: Any) -> None:
    behind = tensor([0.0, 200.0, 200.0, 0.0])[:, None]  # the targets of two rows are far below the largest logit
    logits = Z - behind * nn.functional.one_hot(T, 3)

    def value_and_gradient(f: Loss) -> list[Tensor]:
        split = distribute_tensor(logits, mesh, [Shard(dim)]).requires_grad_()
        target = distribute_tensor(T, mesh, [Shard(0) if dim == 0 else Replicate()])
        value = f(split, target, **arguments)
        value.sum().backward()
        return [value.full_tensor(), split.grad.full_tensor()]

    torch.testing.assert_close(value_and_gradient(loss), value_and_gradient(reference))
