import pytest
import torch

from xent.training.models import cnn
from xent.training.nudge import nudge


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_weight_moves_by_exactly_one_ulp_up_or_down(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = cnn((1, 28, 28), 10, 4).to(dtype)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    nudge(model, 1)
    for old, new in zip(before, model.parameters(), strict=True):
        up, down = (torch.nextafter(old, torch.full_like(old, side)) for side in (torch.inf, -torch.inf))
        assert ((new == up) | (new == down)).all()
        assert old.numel() < 10 or ((new == up).any() and (new == down).any())
        assert new.dtype == dtype


def test_a_nudge_repeats_and_another_is_another() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 8)
        nudge(layer, seed)
        return layer.weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
