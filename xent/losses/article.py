"""The cross entropy of the article that xent grew from: the plain case, step by step."""

import torch
from torch import Tensor, nn


class ArticleCrossEntropyLoss(nn.Module):
    """Mean cross entropy of logits `[batch, classes]` and class indices `[batch]`, from the logarithm of the softmax.

    >>> logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.0]])
    >>> ArticleCrossEntropyLoss()(logits, torch.tensor([0, 1]))
    tensor(0.3963)
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        largest = logits.max(dim=1, keepdim=True).values
        shifted = logits - largest  # exp cannot overflow
        sum_of_exp = torch.exp(shifted).sum(dim=1, keepdim=True)
        log_probabilities = shifted - torch.log(sum_of_exp)
        rows = torch.arange(len(targets), device=targets.device)
        return -log_probabilities[rows, targets].mean()
