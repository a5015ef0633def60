import pytest
import torch
from torch.nn.functional import cross_entropy as reference

from xent import CrossEntropyLoss, cross_entropy


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_value_and_gradient_are_pytorchs(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(64, 10, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.randint(10, (64,), generator=generator)
    ours, theirs = CrossEntropyLoss()(logits, target), reference(logits, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)), rtol=0, atol=1e-16)


def test_the_largest_finite_logits_do_not_overflow() -> None:
    largest = torch.finfo(torch.float32).max
    assert cross_entropy(torch.tensor([[largest, 0.0]]), torch.tensor([0])) == 0
