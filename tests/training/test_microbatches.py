"""Microbatches: what each adds to the loss of its batch, whatever it counts, and on whichever process."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.losses.function import FunctionLoss
from xent.losses.scratch import CrossEntropyLossFromScratch
from xent.recording.errors import BadInput
from xent.training import microbatches
from xent.training.microbatches import microbatch_loss, slices, target_counts

CLASSES = 5
WEIGHT = torch.tensor([1.0, 2.0, 0.0, 4.0, 0.5], dtype=torch.float64)
LOSSES: dict[str, nn.Module] = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "one class ignored": nn.CrossEntropyLoss(ignore_index=1),
    "weights, one of them 0": nn.CrossEntropyLoss(weight=WEIGHT),
    "all at once": nn.CrossEntropyLoss(weight=WEIGHT + 0.1, ignore_index=1, label_smoothing=0.3),
    "ours": CrossEntropyLossFromScratch(weight=WEIGHT + 0.1, ignore_index=0, label_smoothing=0.3),
    "a function": FunctionLoss(cross_entropy, weight=WEIGHT, ignore_index=1),
}


def batch(rows: int) -> tuple[Tensor, Tensor]:
    logits = torch.randn(rows, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return logits.requires_grad_(), torch.arange(rows) // 3 % CLASSES  # so that whole parts are ignored


def loss_and_gradient(loss: nn.Module, rows: int, accumulate: int, processes: int) -> tuple[Tensor, Tensor]:
    """The mean over the processes of what their microbatches add up to, as DistributedDataParallel takes it."""
    logits, target = batch(rows)
    values = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(microbatches, "world_size", lambda: processes)
        counts = target_counts(loss, accumulate, CLASSES, target.device)
        for rank, part in enumerate(slices(rows, processes)):
            patch.setattr(microbatches, "rank", lambda rank=rank: rank)
            parts = list(microbatches.microbatches(logits[part], target, counts, accumulate))
            assert [part.is_last for part in parts] == [False] * (accumulate - 1) + [True]
            values += [microbatch_loss(loss, *part[:3], counts) for part in parts]
    mean = torch.stack(values).sum() / processes
    return mean, torch.autograd.grad(mean, logits)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_microbatches_add_up_to_the_loss_of_the_batch(name: str) -> None:
    for rows, *parts in ((13, 2, 1), (12, 4, 1), (13, 12, 1), (12, 12, 1), (13, 2, 2), (12, 2, 3)):
        whole, summed = (loss_and_gradient(LOSSES[name], rows, *divided) for divided in ((1, 1), parts))
        torch.testing.assert_close(summed, whole, rtol=1e-14, atol=1e-15)


def test_a_mean_of_nothing_is_nan_in_parts_too_and_smoothing_with_a_class_of_weight_0_needs_whole_batches() -> None:
    target, loss = torch.full((4,), 2), nn.CrossEntropyLoss(ignore_index=2)
    counts = target_counts(loss, 2, CLASSES, target.device)
    for *part, _ in microbatches.microbatches(batch(4)[0], target, counts, 2):
        assert microbatch_loss(loss, *part, counts).isnan()
    loss = nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1)
    with pytest.raises(BadInput, match="label_smoothing=0.1 and a class of weight 0"):
        target_counts(loss, 2, CLASSES, WEIGHT.device)
    target_counts(loss, 1, CLASSES, WEIGHT.device)
