"""Losses with a linear layer inside: its weights are trained with the network, and both losses get the same."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.testing import assert_same_learning


class Apart(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(self.layer(features), target)


class Untrained(Apart):
    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(features @ self.layer.weight.detach().T, target)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="this PyTorch has no such loss")
def test_pytorchs_own_passes() -> None:
    layer, in_one = nn.Linear(10, 10, bias=False), nn.LinearCrossEntropyLoss(10, 10, ignore_index=-100)
    in_one.load_state_dict({"linear.weight": layer.weight})
    assert_same_learning(in_one, Apart(layer), ignored=0.3)


def test_weights_that_are_not_trained_are_different_and_the_callers_are_left_alone() -> None:
    layer = nn.Linear(10, 10, bias=False)
    before = layer.weight.detach().clone()
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(Untrained(layer), Apart(layer))
    assert torch.equal(layer.weight, before)
