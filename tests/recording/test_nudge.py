import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from xent.recording.errors import BadInput
from xent.recording.nudge import batch_order, check_can_nudge, nudge_weights, rounded_logits
from xent.recording.streams import stream
from xent.training.models import cnn

LOGITS = torch.linspace(-3, 3, 40, dtype=torch.float64).view(4, 10)


def ulps(old: Tensor, new: Tensor) -> Tensor:
    """By how many ULPs each number moved: 1, -1, or NaN for anything else."""
    up, down = (torch.nextafter(old, torch.full_like(old, side)) for side in (torch.inf, -torch.inf))
    return torch.where(new == up, 1.0, torch.where(new == down, -1.0, torch.nan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_weight_moves_by_exactly_one_ulp_up_or_down(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = cnn((1, 28, 28), 10, 4).to(dtype)
    before = parameters_to_vector(model.parameters()).detach()
    nudge_weights(model, stream("nudged weights", 1))
    after = parameters_to_vector(model.parameters())
    assert after.dtype == dtype
    assert ulps(before, after).mean().abs() < 0.1, "each moves by 1 or -1, and half of them up"


def test_weights_that_are_cast_move_by_one_ulp_of_what_they_are_cast_to() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 30)
    before = layer.weight.detach().bfloat16()
    nudge_weights(layer, stream("nudged weights", 1), torch.bfloat16)
    moved = ulps(before, layer.weight.detach().bfloat16())
    assert moved.isfinite().double().mean() > 0.95, "but where rounding takes one back"


def test_weights_that_are_no_floating_point_numbers_stay_and_tied_ones_move_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.register_parameter("scale", nn.Parameter(torch.tensor([3], dtype=torch.int8), requires_grad=False))
    before = model[0].weight.detach().clone()
    nudge_weights(model, stream("nudged weights", 1))
    assert ulps(before, model[0].weight).isfinite().all()
    assert model.scale.item() == 3


@pytest.mark.parametrize("layer", [nn.Linear(3, 3, device="meta"), nn.LazyLinear(3)], ids=["meta", "lazy"])
def test_weights_that_have_no_numbers_yet_are_refused(layer: nn.Module) -> None:
    with pytest.raises(BadInput, match="0.weight has no numbers yet: nudge the model when its weights are there"):
        check_can_nudge(nn.Sequential(layer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_nudge_moves_every_logit_by_one_ulp_of_the_precision_of_the_loss(dtype: torch.dtype) -> None:
    logits = LOGITS.clone().requires_grad_()
    rounded, moved = (rounded_logits(logits, dtype, nudge, step=1) for nudge in (0, 1))
    assert torch.equal(rounded, LOGITS.to(dtype))
    assert set(ulps(rounded.detach(), moved).flatten().tolist()) == {1, -1}
    moved.sum().backward()
    assert (logits.grad == 1).all(), "gradients flow through as they are"


def test_orders_and_moved_logits_are_drawn_from_nudge_and_step() -> None:
    draws = [(1, 1), (2, 1), (1, 2), (2, 2), (1, 1)]
    orders = [tuple(batch_order(50, *numbers).tolist()) for numbers in draws]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({*orders, tuple(range(50))}) == 5 and orders[-1] == orders[0]
    moved = [tuple(rounded_logits(LOGITS, torch.float32, *numbers).flatten().tolist()) for numbers in draws]
    assert len(set(moved)) == 4 and moved[-1] == moved[0]
