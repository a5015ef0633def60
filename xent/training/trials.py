"""Trials of a loss on batches that no short training shows it, such as large logits, strided ones, or a single row."""

import warnings
from collections.abc import Callable
from math import inf, isfinite, isnan
from typing import NamedTuple

import torch
from torch import Tensor

from xent.recording.device import seeded
from xent.recording.errors import in_one_line
from xent.training.validate_loss import Loss, copied

# How far a loss may be from the reference, relatively. Mistakes that only show here are not small.
TINY = 1e-30  # what a relative error is of, at least
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
LARGE, UNDERFLOWING = "logits of 1000", "logits of -1000"
STRIDED = "a slice", "a transpose", "an expanded row", "an expanded target"
MASKED, ONE_ROW, OF_TARGETS = "a class at -inf", "a batch of 1", "the gradient of targets"
ROWS = 29  # of a batch; in half types, a sum over them does not overflow
MANY_ROWS = 1031  # more than usual chunks of a batch have, and no multiple of them
MANY_LOGITS = 2**22  # a batch of many rows has no more than these
TYPES = (torch.uint8, torch.int16, torch.int32), (torch.float64, torch.float32)  # of class indices, of probabilities


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class Trial(NamedTuple):
    """A batch to try a loss on.

    Attributes:
        name: what it shows the loss.
        base: `[...]`, what the logits are made of.
        target: what the target is made of.
        logits_of: makes the logits `[batch, classes, *places]` from the base, mostly as they are.
        target_of: the same for the target.
        is_of_target: whether the target requires a gradient, which is then looked at in place of that of the logits.
        before: a batch that the loss gets first, as it may keep its size.
    """

    name: str
    base: Tensor
    target: Tensor
    logits_of: Callable[[Tensor], Tensor] = _as_it_is
    target_of: Callable[[Tensor], Tensor] = _as_it_is
    is_of_target: bool = False
    before: tuple[Tensor, Tensor] | None = None


class Outcome(NamedTuple):
    """What a loss gives in a trial.

    Attributes:
        value: of the loss.
        gradient: flat, in float64, on the CPU; or its norm alone, `[1]`.
    """

    value: float
    gradient: Tensor


Outcomes = dict[str, tuple[Outcome, Outcome]]  # of a loss and of the reference, by the name of the trial


def large_logits(target: Tensor, classes: int, dtype: torch.dtype) -> list[Trial]:
    """Logits at which `exp` overflows or underflows, and what is clamped shows.

    Every other row is undecided. Of the others half are sure of their target, half of the class after it.

    Args:
        target: class indices `[batch, *places]` or probabilities `[batch, classes, *places]`.
    """
    target = target[:ROWS]
    a_class = target.argmax(1) if target.is_floating_point() else target.clamp(0, classes - 1)
    after = torch.arange(len(target), device=target.device).view(-1, *[1] * (a_class.ndim - 1)) // 2 % 2
    sure_of = ((a_class + after) % classes)[:, None]
    logits = _drawn((len(target), classes, *a_class.shape[1:]), dtype, target.device)
    trials = []
    for name, sure in ((LARGE, 1000.0), (UNDERFLOWING, -1000.0)):
        large = logits.scatter_add(1, sure_of, torch.full_like(logits, sure))
        large[::2] = logits[::2]
        trials.append(Trial(name, large, target))
    return trials


def other_batches(target: Tensor, classes: int, dtype: torch.dtype, ignore_index: int) -> list[Trial]:
    """Batches of other layouts, types and sizes, and with masked classes.

    Args:
        target: as `large_logits` takes it, of many rows.
        ignore_index: the index of targets that do not count. The first row of each trial has one that does.
    """
    of_probabilities = target.is_floating_point()
    counted = (target != ignore_index).flatten(1).sum(1) if target.ndim > 1 else target != ignore_index
    first = counted.int().argmax()
    target = torch.cat([target[first, None], target])
    places = target.shape[2:] if of_probabilities else target.shape[1:]
    rows = max(2, min(len(target), MANY_ROWS, MANY_LOGITS // (classes * max(1, places.numel()))))
    drawn = _drawn((rows, classes, *places), dtype, target.device)
    many, logits, target = target[:rows], drawn[:ROWS], target[:ROWS]

    def twice(tensor: Tensor, dim: int) -> Tensor:
        return torch.stack([tensor.roll(1, 0), tensor], dim + 1).flatten(dim, dim + 1)

    def backwards(tensor: Tensor) -> Tensor:
        return tensor.permute(*reversed(range(tensor.ndim)))

    masked = logits
    for number in range(1, min(4, classes)):  # up to three classes of a row; with probabilities, no reference is finite
        a_class = target.argmin(1, keepdim=True) if of_probabilities else (target.clamp(0)[:, None] + number) % classes
        with_one_more = masked.scatter(1, a_class, -torch.inf)
        with_one_more[:: number + 1] = masked[:: number + 1]
        masked = with_one_more
    a_slice, a_transpose, an_expanded_row, an_expanded_target = STRIDED
    usual = logits, target
    trials = [
        Trial(ONE_ROW, drawn[:1], many[:1], before=usual),
        Trial(f"a batch of {rows}", drawn, many, before=usual),
        Trial(a_slice, twice(logits, 1), twice(target, 0), lambda z: z[:, 1::2], lambda t: t[1::2]),
        Trial(a_transpose, backwards(logits).contiguous(), backwards(target).contiguous(), backwards, backwards),
        Trial(an_expanded_row, logits, target, lambda z: z[:1].expand_as(z)),
        Trial(an_expanded_target, logits, target, target_of=lambda t: t[:1].expand_as(t)),
        Trial(MASKED, masked, target),
    ]
    names = ((str(dtype).removeprefix("torch."), dtype) for dtype in TYPES[of_probabilities])
    trials += [Trial(f"targets of {name}", logits, target.to(dtype)) for name, dtype in names if dtype != target.dtype]
    if of_probabilities:
        trials += [Trial(OF_TARGETS, logits, target, is_of_target=True)]
    return trials


def _drawn(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Logits of rows that are undecided, no two alike, which may be sorted."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def outcome(loss: Loss, trial: Trial) -> Outcome:
    """Value and gradient of a loss in a trial.

    Args:
        loss: a copy of it is tried.

    Raises:
        Exception: whatever the loss raises.
    """
    loss, base, target = copied(loss), trial.base.clone(), trial.target.clone()
    leaf = (target if trial.is_of_target else base).requires_grad_()
    with seeded(0, leaf.device), warnings.catch_warnings(action="ignore"):  # a loss that draws gets the same numbers
        if trial.before:
            logits, other_target = (tensor.clone() for tensor in trial.before)
            loss(logits.requires_grad_().clone(), other_target)
        # Some losses overwrite what they get, and a leaf cannot be.
        logits, target = trial.logits_of(base.clone()), trial.target_of(target.clone())
        logits = logits if logits.requires_grad else logits.requires_grad_()  # some losses ask for that
        value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, leaf, materialize_grads=True)
    return Outcome(value.item(), gradient.detach().as_subclass(Tensor).cpu().double().flatten())


def differing(loss: Loss, reference: Loss, trials: list[Trial]) -> tuple[Outcomes, dict[str, str]]:
    """Try two losses.

    Returns:
        by the name of the trial: the outcomes of both, where they differ; and what the loss raised, where it did.
    """
    outcomes, raised = {}, {}
    for trial in trials:
        try:
            expected = outcome(reference, trial)
        except Exception:  # what the reference does not take, the loss need not take
            continue
        try:
            ours = outcome(loss, trial)
        except Exception as error:  # anyone's loss may raise anything
            raised[trial.name] = in_one_line(error)
            continue
        if differ(ours, expected, trial.base.dtype):
            outcomes[trial.name] = ours, expected
    return outcomes, raised


def differ(ours: Outcome, expected: Outcome, dtype: torch.dtype) -> bool:
    """Whether an outcome is off by more than rounding in `dtype` explains; never if the reference's is not finite."""
    if not (isfinite(expected.value) and expected.gradient.isfinite().all()):
        return False
    return not all(error <= TOLERANCE[dtype] for error in errors(ours, expected))


def errors(ours: Outcome, expected: Outcome) -> tuple[float, float]:
    """The relative errors of value and gradient; NaN if ours is."""
    of_value = abs(ours.value - expected.value) / max(abs(expected.value), TINY)
    of_gradient = (ours.gradient - expected.gradient).norm().item() / max(expected.gradient.norm().item(), TINY)
    return of_value, of_gradient


def in_words(ours: Outcome, expected: Outcome) -> str:
    """How an outcome differs from the reference's."""
    of_value, of_gradient = errors(ours, expected)
    digits = 6 if of_value > 1e-3 or isnan(of_value) else 17
    parts = {
        f"its loss is {ours.value:.{digits}g}, not {expected.value:.{digits}g}": of_value,
        f"its gradient has a relative error of {of_gradient:.1e}": of_gradient,
    }
    worst = max(inf if isnan(error) else error for error in parts.values())
    return ", ".join(part for part, error in parts.items() if not error < worst / 1e6)
