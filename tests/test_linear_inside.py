"""Losses with a linear layer of their own: its weights are trained with the network, and both losses get the same."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.testing import assert_same_learning

pytestmark = pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyLoss"), reason="this PyTorch has no linear layer and cross entropy in one"
)


class Apart(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(self.layer(features), target)


class InOne(Apart):
    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        return nn.functional.linear_cross_entropy(features, self.layer.weight, target)


class DeafLayer(Apart):
    """The gradient of the weights is lost."""

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(features @ self.layer.weight.detach().T, target)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pytorchs_own_pass(dtype: torch.dtype) -> None:
    layer = nn.Linear(10, 10, bias=False)
    assert_same_learning(InOne(layer), Apart(layer), ignored=0.3, dtype=dtype)
    in_one = nn.LinearCrossEntropyLoss(10, 10)
    in_one.load_state_dict(dict.fromkeys(in_one.state_dict(), layer.weight))
    assert_same_learning(in_one, Apart(layer), dtype=dtype)


def test_weights_that_are_not_trained_are_different() -> None:
    layer = nn.Linear(10, 10, bias=False)
    before = deepcopy(layer.state_dict())
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(DeafLayer(layer), Apart(layer))
    assert torch.equal(layer.weight, before["weight"]), "what was given is left as it was"
