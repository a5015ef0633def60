import numpy as np
import pytest
import torch

from xent.training.models import cnn
from xent.training.nudge import nudge_weights, nudged_order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_weight_moves_by_exactly_one_ulp_up_or_down(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = cnn((1, 28, 28), 10, 4).to(dtype)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    nudge_weights(model, 1)
    for old, new in zip(before, model.parameters(), strict=True):
        up, down = (torch.nextafter(old, torch.full_like(old, side)) for side in (torch.inf, -torch.inf))
        assert ((new == up) | (new == down)).all()
        assert old.numel() < 10 or ((new == up).any() and (new == down).any())
        assert new.dtype == dtype


def test_a_nudge_repeats_and_another_is_another() -> None:
    def weights(nudge: int) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 8)
        nudge_weights(layer, nudge)
        return layer.weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert not torch.equal(weights(0), weights(1))


def test_the_images_of_a_batch_stay_in_it_in_another_order() -> None:
    order = nudged_order(50, batch_size=8, nudge=1, epoch=0)
    batches = order[:48].reshape(6, 8)
    assert (np.sort(batches, axis=1) == np.arange(48).reshape(6, 8)).all()
    assert (batches != np.arange(48).reshape(6, 8)).any(axis=1).all(), "each batch is in another order"
    assert order[48:].tolist() == [48, 49], "what fills no batch"


def test_another_nudge_or_epoch_is_another_order_and_0_is_none() -> None:
    assert nudged_order(50, 8, nudge=0, epoch=3).tolist() == list(range(50))
    orders = [nudged_order(50, 8, nudge, epoch) for nudge, epoch in ((1, 0), (2, 0), (1, 1))]
    assert len({tuple(order) for order in orders}) == 3
    assert (nudged_order(50, 8, 1, 0) == orders[0]).all()
