import pytest
import torch

from xent.training.loss_precision import given_to_loss

LOGITS = torch.linspace(-3, 3, 40, dtype=torch.float64).view(4, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_nudge_moves_every_logit_by_one_ulp_of_the_precision(dtype: torch.dtype) -> None:
    rounded = given_to_loss(LOGITS, dtype, nudge=0, step=1)
    assert torch.equal(rounded, LOGITS.to(dtype))
    moved = given_to_loss(LOGITS, dtype, nudge=1, step=1)
    up, down = (torch.nextafter(rounded, torch.full_like(rounded, side)) for side in (torch.inf, -torch.inf))
    assert ((moved == up) | (moved == down)).all()
    assert (moved == up).any() and (moved == down).any()


def test_every_step_and_nudge_moves_them_otherwise_and_each_again_the_same() -> None:
    drawn = {
        (nudge, step): tuple(given_to_loss(LOGITS, torch.float32, nudge, step).flatten().tolist())
        for nudge in (1, 2)
        for step in (1, 2, 3)
    }
    assert len(set(drawn.values())) == 6
    assert tuple(given_to_loss(LOGITS, torch.float32, 2, 3).flatten().tolist()) == drawn[2, 3]


def test_gradients_flow_through_as_they_are() -> None:
    logits = LOGITS.clone().requires_grad_()
    given_to_loss(logits, torch.float32, nudge=1, step=1).square().sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, 2 * LOGITS, rtol=1e-6, atol=1e-6)
