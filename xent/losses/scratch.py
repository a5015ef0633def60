"""Cross entropy from basic tensor operations."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


def cross_entropy(input: Float[Tensor, "batch classes"], target: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
    """The mean surprise at the targets, `-log p[target]`, under the probabilities `p = softmax(input)`.

    With `z` a row of logits and `t` its target, and since subtracting a constant from all of `z` changes nothing,

        -log( exp(z_t) / sum_j exp(z_j) )  =  log( sum_j exp(z_j - m) ) - (z_t - m)      where m = max_j z_j

    The largest term of the sum is then exp(0) = 1: it neither overflows nor vanishes, whatever the logits.

    Args:
        input: logits, of any floating-point type.
        target: the class of each row, 0 to classes - 1.
    """
    # The maximum cancels out of the value, and so out of the gradient: no need to differentiate it.
    shifted = input - input.detach().amax(dim=1, keepdim=True)
    log_sum = shifted.exp().sum(dim=1).log()
    at_target = shifted[torch.arange(len(target), device=target.device), target]
    return (log_sum - at_target).mean()


class CrossEntropyLoss(nn.Module):
    """`cross_entropy` as a module."""

    def forward(self, input: Float[Tensor, "batch classes"], target: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
        return cross_entropy(input, target)
