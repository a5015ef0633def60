"""Microbatches: what each adds to the loss of its batch, whatever it counts, and on whichever process."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.losses.function import FunctionLoss
from xent.losses.impostors import MeanOfMeans
from xent.losses.scratch import CrossEntropyLossFromScratch
from xent.recording.errors import BadInput
from xent.training import microbatches
from xent.training.microbatches import microbatch_loss, slices, target_counts

CLASSES = 5
WEIGHT = torch.tensor([1.0, 2.0, 0.0, 4.0, 0.5], dtype=torch.float64)
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "mean": nn.CrossEntropyLoss,
    "sum": partial(nn.CrossEntropyLoss, reduction="sum"),
    "one class ignored": partial(nn.CrossEntropyLoss, ignore_index=1),
    "weights, one of them 0": partial(nn.CrossEntropyLoss, weight=WEIGHT),
    "all at once": partial(nn.CrossEntropyLoss, weight=WEIGHT + 0.1, ignore_index=1, label_smoothing=0.3),
    "ours": partial(CrossEntropyLossFromScratch, weight=WEIGHT + 0.1, ignore_index=0, label_smoothing=0.3),
    "a function": partial(FunctionLoss, cross_entropy, weight=WEIGHT, ignore_index=1),
}


def batch(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, CLASSES, dtype=torch.float64, generator=generator)
    return logits, torch.arange(rows) // 3 % CLASSES  # so that whole parts are ignored


def loss_and_gradient(loss: nn.Module, accumulate: int, rows: int) -> tuple[Tensor, Tensor]:
    logits, target = batch(rows)
    logits.requires_grad_()
    counts = target_counts(loss, accumulate, CLASSES, logits.device)
    total, last = torch.zeros(()), []
    for part, own_target, share, is_last in microbatches.microbatches(logits, target, counts, accumulate):
        value = microbatch_loss(loss, part, own_target, share, counts)
        value.backward()
        total = total + value.detach()
        last.append(is_last)
    assert logits.grad is not None
    assert last == [False] * (accumulate - 1) + [True]
    return total, logits.grad


@pytest.mark.parametrize("rows", [12, 13])
@pytest.mark.parametrize("accumulate", [2, 4, 12])
@pytest.mark.parametrize("name", LOSSES)
def test_microbatches_add_up_to_the_loss_of_the_batch(name: str, accumulate: int, rows: int) -> None:
    whole, divided = (loss_and_gradient(LOSSES[name](), parts, rows) for parts in (1, accumulate))
    for of_whole, of_parts in zip(whole, divided):
        torch.testing.assert_close(of_parts, of_whole, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("rows", [12, 13])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_over_processes_is_the_loss_of_the_batch(
    name: str, processes: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = LOSSES[name]()
    value, gradient = loss_and_gradient(loss, 1, rows)
    logits, target = batch(rows)
    monkeypatch.setattr(microbatches, "world_size", lambda: processes)
    counts = target_counts(loss, 2, CLASSES, logits.device)
    losses, gradients = [], []
    for rank in range(processes):
        monkeypatch.setattr(microbatches, "rank", lambda rank=rank: rank)
        own = logits[slices(rows, processes)[rank]].clone().requires_grad_()
        made = [microbatch_loss(loss, *part, counts) for *part, _ in microbatches.microbatches(own, target, counts, 2)]
        losses.append(torch.stack(made).sum())
        losses[-1].backward()
        gradients.append(own.grad / processes)  # type: ignore[operator]
    torch.testing.assert_close(torch.stack(losses).mean(), value, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-14, atol=1e-15)


def test_a_batch_of_which_nothing_counts_has_no_mean() -> None:
    """As PyTorch says, also where it is in parts."""
    logits, _ = batch(4)
    target = torch.full((4,), 2)
    loss = nn.CrossEntropyLoss(ignore_index=2)
    counts = target_counts(loss, 2, CLASSES, logits.device)
    for *part, _ in microbatches.microbatches(logits, target, counts, 2):
        assert microbatch_loss(loss, *part, counts).isnan()


def test_smoothing_with_a_class_of_weight_0_is_refused() -> None:
    """Its smoothing counts where it does not, so no mean over a part tells of it."""
    with pytest.raises(BadInput, match="label_smoothing=0.1 and a class of weight 0"):
        target_counts(nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), 2, CLASSES, WEIGHT.device)
    target_counts(nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), 1, CLASSES, WEIGHT.device)  # whole batches


def test_the_mean_of_means_is_another() -> None:
    right, wrong = (loss_and_gradient(loss, 4, 12) for loss in (nn.CrossEntropyLoss(ignore_index=1), MeanOfMeans(1)))
    alone = loss_and_gradient(MeanOfMeans(1), 1, 12)
    torch.testing.assert_close(alone, loss_and_gradient(nn.CrossEntropyLoss(ignore_index=1), 1, 12), rtol=0, atol=0)
    assert not torch.allclose(right[1], wrong[1], rtol=0.1, equal_nan=True)


@pytest.mark.parametrize(("rows", "count"), [(8, 2), (7, 3), (3, 3)])
def test_slices_are_all_rows_once_and_even(rows: int, count: int) -> None:
    found = slices(rows, count)
    assert [row for each in found for row in range(rows)[each]] == list(range(rows))
    lengths = [each.stop - each.start for each in found]
    assert max(lengths) - min(lengths) <= 1
