"""What is random in a run: one stream for each purpose, the same everywhere; and what a nudge moves with it."""

from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from xent.recording.errors import BadInput
from xent.recording.nudge import batch_order, check_can_nudge, nudge_weights, rounded_logits
from xent.recording.streams import KEYS, random_words, stream
from xent.training.models import cnn

# The first draw of each purpose for 2, or for 2 and 3. No machine and no version of NumPy may change it unseen.
PINNED = {
    ("first weights", 2): 17262256342953999826,
    ("batches", 2, 3): 6483051394184945791,
    ("nudged weights", 2): 587199507842006419,
    ("nudged order", 2, 3): 268859156807062359,
    ("nudged logits", 2, 3): 4248535460908280859,
    ("sketch", 2): 7658374052645071150,
    ("hash", 2): 11406516092885785335,
}


def draws(purpose: str, *numbers: int) -> list[int]:
    return random_words(stream(purpose, *numbers), 4).tolist()


def test_a_stream_is_the_same_everywhere_and_no_two_share_their_draws() -> None:
    assert {(purpose, *numbers): draws(purpose, *numbers)[0] for purpose, *numbers in PINNED} == PINNED
    counts = {purpose: len(numbers) for purpose, *numbers in PINNED}
    assert set(counts) == {*KEYS, "batches"}
    streams = [(purpose, *n) for purpose, count in counts.items() for n in product(range(3), repeat=count)]
    assert all(set(draws(*one)).isdisjoint(draws(*other)) for one, other in combinations(streams, 2))


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
    assert after.dtype == dtype and ulps(before, after).mean().abs() < 0.1, "each by 1 or -1, and half of them up"


def test_weights_that_are_cast_move_by_one_ulp_of_what_they_are_cast_to() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 30)
    before = layer.weight.detach().bfloat16()
    nudge_weights(layer, stream("nudged weights", 1), torch.bfloat16)
    moved = ulps(before, layer.weight.detach().bfloat16())
    assert moved.isfinite().double().mean() > 0.95, "but where rounding takes one back"


def test_tied_weights_move_once_and_integers_stay_and_what_has_no_numbers_yet_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.register_parameter("scale", nn.Parameter(torch.tensor([3], dtype=torch.int8), requires_grad=False))
    before = model[0].weight.detach().clone()
    nudge_weights(model, stream("nudged weights", 1))
    assert ulps(before, model[0].weight).isfinite().all()
    assert model.scale.item() == 3
    for layer in (nn.Linear(3, 3, device="meta"), nn.LazyLinear(3)):
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


def test_complex_weights_move_in_both_parts() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(50, dtype=torch.complex128))
    before = torch.view_as_real(model.weight.detach().clone())
    nudge_weights(model, stream("nudged weights", 1))
    moved = torch.view_as_real(model.weight.detach())
    up, down = (torch.nextafter(before, torch.full_like(before, to)) for to in (torch.inf, -torch.inf))
    assert ((moved == up) | (moved == down)).all()
    assert all(0 < (part == its_up).sum() < 50 for part, its_up in zip(moved.T, up.T)), "each drawn by itself"


def test_expanded_weights_are_refused() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(3, 1).expand(3, 4))
    with pytest.raises(BadInput, match="^weight is expanded, several of its weights are one number: make it contig"):
        check_can_nudge(model)
