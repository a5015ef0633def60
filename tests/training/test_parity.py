import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.training.parity import parity


def measured(loss: object, dtype: torch.dtype = torch.float32, reference: nn.Module | None = None) -> dict[str, float]:
    torch.manual_seed(0)
    logits = torch.randn(32, 10, dtype=dtype, requires_grad=True)
    target = torch.arange(32) % 10
    value = loss(logits, target)  # type: ignore[operator]
    value.backward()
    return parity(logits, target, value, reference or nn.CrossEntropyLoss())


def test_the_reference_is_as_far_off_as_itself() -> None:
    errors = measured(cross_entropy)
    assert errors["train_parity/loss_error"] == errors["train_parity/reference_loss_error"]
    assert errors["train_parity/gradient_error"] == errors["train_parity/reference_gradient_error"]
    assert 0 < errors["train_parity/gradient_error"] < 1e-6


def test_an_error_in_the_loss_or_the_gradient_is_told_apart() -> None:
    def scaled(logits: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(logits, target)
        return loss + 1e-3 * (loss - loss.detach())

    assert measured(lambda logits, target: cross_entropy(logits, target) + 1)["train_parity/gradient_error"] < 1e-6
    assert measured(lambda logits, target: 1.01 * cross_entropy(logits, target))[
        "train_parity/loss_error"
    ] == pytest.approx(0.01, rel=1e-3)
    assert measured(scaled)["train_parity/loss_error"] < 1e-6
    assert measured(scaled)["train_parity/gradient_error"] == pytest.approx(1e-3, rel=1e-3)


def test_the_reference_has_the_arguments_of_the_loss() -> None:
    weighted = nn.CrossEntropyLoss(torch.linspace(1, 2, 10), label_smoothing=0.1)
    assert measured(weighted, reference=weighted)["train_parity/loss_error"] < 1e-6
    assert measured(weighted)["train_parity/loss_error"] > 1e-3


def test_in_float64_and_half_types() -> None:
    assert measured(cross_entropy, torch.float64)["train_parity/gradient_error"] == 0
    assert 1e-4 < measured(cross_entropy, torch.bfloat16)["train_parity/gradient_error"] < 1e-2
