import pytest
import torch
from torch import nn

from xent.recording.errors import BadInput
from xent.recording.nudge import batch_order, check_can_nudge, nudge_weights, rounded_logits
from xent.recording.streams import stream
from xent.training.models import cnn

LOGITS = torch.linspace(-3, 3, 40, dtype=torch.float64).view(4, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_weight_moves_by_exactly_one_ulp_up_or_down(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = cnn((1, 28, 28), 10, 4).to(dtype)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    nudge_weights(model, stream("nudged weights", 1))
    for old, new in zip(before, model.parameters(), strict=True):
        up, down = (torch.nextafter(old, torch.full_like(old, side)) for side in (torch.inf, -torch.inf))
        assert ((new == up) | (new == down)).all()
        assert old.numel() < 10 or 0.2 < (new == up).double().mean() < 0.8
        assert new.dtype == dtype


def test_weights_that_are_cast_move_by_one_ulp_of_what_they_are_cast_to() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 30)
    before = layer.weight.detach().bfloat16()
    nudge_weights(layer, stream("nudged weights", 1), torch.bfloat16)
    moved = layer.weight.detach().bfloat16()
    up, down = (torch.nextafter(before, torch.full_like(before, side)) for side in (torch.inf, -torch.inf))
    assert ((moved == up) | (moved == down)).double().mean() > 0.95, "but where rounding takes one back"


def test_a_nudge_repeats_and_another_is_another() -> None:
    def weights(nudge: int) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(8, 8)
        nudge_weights(layer, stream("nudged weights", nudge))
        return layer.weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_weights_that_are_no_floating_point_numbers_stay_and_tied_ones_move_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.register_parameter("scale", nn.Parameter(torch.tensor([3], dtype=torch.int8), requires_grad=False))
    before = model[0].weight.detach().clone()
    nudge_weights(model, stream("nudged weights", 1))
    up, down = (torch.nextafter(before, torch.full_like(before, side)) for side in (torch.inf, -torch.inf))
    assert ((model[0].weight == up) | (model[0].weight == down)).all()
    assert model.scale.item() == 3


@pytest.mark.parametrize("layer", [nn.Linear(3, 3, device="meta"), nn.LazyLinear(3)], ids=["meta", "lazy"])
def test_weights_that_have_no_numbers_yet_are_refused(layer: nn.Module) -> None:
    with pytest.raises(BadInput, match="0.weight has no numbers yet: nudge the model when its weights are there"):
        check_can_nudge(nn.Sequential(layer))


def test_a_batch_is_put_in_an_order_of_its_nudge_and_step() -> None:
    orders = [tuple(batch_order(50, nudge, step).tolist()) for nudge, step in ((1, 1), (2, 1), (1, 2))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({*orders, tuple(range(50))}) == 4
    assert tuple(batch_order(50, 1, 1).tolist()) == orders[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_nudge_moves_every_logit_by_one_ulp_of_the_precision_of_the_loss(dtype: torch.dtype) -> None:
    rounded = rounded_logits(LOGITS, dtype, nudge=0, step=1)
    assert torch.equal(rounded, LOGITS.to(dtype))
    moved = rounded_logits(LOGITS, dtype, nudge=1, step=1)
    up, down = (torch.nextafter(rounded, torch.full_like(rounded, side)) for side in (torch.inf, -torch.inf))
    assert ((moved == up) | (moved == down)).all()
    assert (moved == up).any() and (moved == down).any()


def test_every_step_and_nudge_moves_logits_otherwise_and_again_the_same() -> None:
    drawn = {
        (nudge, step): tuple(rounded_logits(LOGITS, torch.float32, nudge, step).flatten().tolist())
        for nudge in (1, 2)
        for step in (1, 2, 3)
    }
    assert len(set(drawn.values())) == 6
    assert tuple(rounded_logits(LOGITS, torch.float32, 2, 3).flatten().tolist()) == drawn[2, 3]


def test_gradients_flow_through_nudged_logits_as_they_are() -> None:
    logits = LOGITS.clone().requires_grad_()
    rounded_logits(logits, torch.float32, nudge=1, step=1).square().sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, 2 * LOGITS, rtol=1e-6, atol=1e-6)
