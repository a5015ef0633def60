"""Right losses whose arguments have names of PyTorch's, and another type or meaning."""

from torch import Tensor
from torch.nn.functional import cross_entropy


def of_one_weight(logits: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    return cross_entropy(logits, target) * weight


def of_no_index(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    assert ignore_index is None
    return cross_entropy(logits, target)


def of_another_mean(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    assert reduction in ("mean", "batchmean")
    return cross_entropy(logits, target)


def of_steps(logits: Tensor, target: Tensor, label_smoothing: list[float]) -> Tensor:
    return cross_entropy(logits, target, label_smoothing=label_smoothing[0])
