"""The proof of a loss of one's own, on a task that is made here: `assert_same_learning(MyLoss())`."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from math import isclose, isfinite

import torch
from torch import Tensor, nn

from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.testing.same_training import SAME, SEEDS_AND_NUDGES, SEEDS_AND_NUDGES_IF_COARSER, judge_training
from xent.training.data import Split, batches
from xent.training.loop import NO_CALLBACKS, Callbacks, Training, fit
from xent.training.task import STEPS, Task
from xent.training.validate_loss import Loss, in_working_type, trial_logits, validate_loss
from xent.verdict.explanation import Evidence, explanation
from xent.verdict.judging import Judgement

STEP_LENGTH = 0.03  # of a step of gradient descent at the peak of the schedule, before momentum
ADVICE = "fewer classes, fewer ignored targets, or weights that are closer to each other"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def assert_same_learning(  # noqa: PLR0913  each a keyword of its own, as a caller writes them
    loss: Loss,
    reference: Loss | None = None,
    *,
    classes: int = 10,
    ignored: float = 0.0,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    probabilities: bool = False,
    places: tuple[int, ...] = (),
) -> None:
    """Assert that training with `loss` behaves as training with `reference`, down to rounding.

    Trains a small network in float64 on a task made here, 256 steps with each loss, and four times more with the
    reference, nudged: from weights moved by one ULP, with batches in another order. That is the floor. With another
    `dtype` than float64 it does so from four seeds, with two nudges. Arguments of the loss are proved by giving them
    to both:

    >>> weight = torch.tensor([1.0, 2.0, 0.5])
    >>> losses = xent.CrossEntropyLossFromScratch, nn.CrossEntropyLoss
    >>> ours, theirs = (loss(weight, label_smoothing=0.1) for loss in losses)
    >>> assert_same_learning(ours, theirs, classes=3, ignored=0.2)

    Args:
        loss: `(logits [batch, classes], class indices [batch]) -> scalar`, a module or a function.
        reference: what to hold it against, by default `torch.nn.CrossEntropyLoss()`.
        classes: of the task, at least 2.
        ignored: the part of the targets, from 0 to below 1, that is `reference.ignore_index`.
        dtype: of the logits that both losses get. A kernel that computes in float32 is judged with torch.float32, where
            the floor is what its rounding may do: a nudge moves the logits by one ULP of that type at every step.
        device: where network and losses are.
        probabilities: targets are distributions `[batch, classes, *places]`.
        places: logits are `[batch, classes, *places]` and class indices `[batch, *places]`.

    Raises:
        BadInput: the loss cannot be trained with.
        AssertionError: it trains otherwise, or nothing was proved; why, and what to try.
    """
    __tracebackhide__ = True  # for pytest, which shows the call instead
    reference = nn.CrossEntropyLoss() if reference is None else reference
    of_partial = getattr(reference, "keywords", {}).get("ignore_index", -100)
    ignore_index = getattr(reference, "ignore_index", of_partial)
    if classes < 2 or not 0 <= ignored < 1 or (probabilities and ignored):
        raise ValueError(
            f"classes={classes}, ignored={ignored}, probabilities={probabilities}: expected 2 classes or more, and a "
            "part from 0 to below 1, 0 with probabilities, which have no index to ignore"
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: expected torch.float64, float32, bfloat16 or float16")
    task = Task(classes, ignored, ignore_index, places, probabilities, device)
    losses = _prepared(loss, task, dtype, "the loss"), _prepared(reference, task, dtype, "the reference")
    judgement = _judged(*losses, task, dtype)
    if judgement.verdict not in SAME:
        evidence = _evidence(*losses, task, dtype, judgement.left_floor) if judgement.left_floor else None
        raise AssertionError(explanation(judgement, ADVICE, evidence, dtype))
    _check_large_logits(*losses, task, dtype)


def judge_learning(loss: Loss, reference: Loss, task: Task, dtype: torch.dtype = torch.float64) -> Judgement:
    """The judgement of training with `loss` on a task, against the reference, both given logits of `dtype`."""
    losses = _prepared(loss, task, dtype, "the loss"), _prepared(reference, task, dtype, "the reference")
    return _judged(*losses, task, dtype)


def _judged(loss: Loss, reference: Loss, task: Task, dtype: torch.dtype) -> Judgement:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others only wait for each other on so small a network, on a busy machine for long
    try:
        lr = _learning_rate(reference, task, dtype)
        ours, theirs = (partial(_train, each, task, dtype, lr) for each in (loss, reference))
        precisions = {"precision": "float64", "loss_precision": str(dtype).removeprefix("torch.")}
        seeds_and_nudges = SEEDS_AND_NUDGES if dtype == torch.float64 else SEEDS_AND_NUDGES_IF_COARSER
        return judge_training(ours, theirs, STEPS, *seeds_and_nudges, precisions)
    finally:
        torch.set_num_threads(threads)


def _prepared(loss: Loss, task: Task, dtype: torch.dtype, name: str) -> Loss:
    """A loss that can be trained with, on the device, in a type that it works in; of a module, a copy."""
    loss, (logits, target) = _own(loss), _trial(task, dtype)
    if isinstance(loss, nn.Module):
        return in_working_type(loss.to(task.device), dtype, logits, target, name)
    validate_loss(loss, logits, target, name)
    return loss


def _trial(task: Task, dtype: torch.dtype, sure: float = 30.0) -> tuple[Tensor, Tensor]:
    """A batch of logits, of which some rows are sure of a class, and of the task's targets."""
    target = _train_split(task, dtype).labels[: task.batch_size]
    logits = trial_logits((len(target), task.classes, *task.places), dtype, torch.device(task.device), sure)
    return logits, target


def _train_split(task: Task, dtype: torch.dtype) -> Split:
    """What to train on; targets that are probabilities in the type of the logits."""
    train, _ = task.splits
    return replace(train, labels=train.labels.to(dtype)) if task.probabilities else train


def _own(loss: Loss) -> Loss:
    """A copy of a module, so that it is left as it is."""
    if not isinstance(loss, nn.Module):
        return loss
    try:
        return deepcopy(loss)
    except Exception as error:  # a lock, say
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(
            f"the loss cannot be copied ({reason}): give it as a function, lambda logits, target: loss(logits, target)"
        ) from error


def _check_large_logits(loss: Loss, reference: Loss, task: Task, dtype: torch.dtype) -> None:
    """AssertionError if the loss of logits of 1000, which no short training reaches, is another number."""
    __tracebackhide__ = True
    logits, target = _trial(task, dtype, sure=1000)
    ours, theirs = (each(logits.clone(), target.clone()).item() for each in (loss, reference))
    if isfinite(theirs) and not isclose(ours, theirs, rel_tol=0.1):
        raise AssertionError(
            f"the loss of logits of 1000 is {ours:.4g}, expected {theirs:.4g}\n"
            "  subtract the largest logit of a row before exp, which overflows, and clamp nothing"
        )


def _learning_rate(reference: Loss, task: Task, dtype: torch.dtype) -> float:
    """That of both losses: the length of a step over the mean norm of the reference's first gradients."""
    network, loss = task.network(), _own(reference)
    norms: list[float] = []
    for images, target in batches(_train_split(task, dtype), task.batch_size, seed=0, steps=16):
        gradients = torch.autograd.grad(loss(network(images).to(dtype), target), list(network.parameters()))
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
    return STEP_LENGTH / (sum(norms) / len(norms))


def _train(
    loss: Loss, task: Task, dtype: torch.dtype, lr: float, recorder: Recorder, callbacks: Callbacks = NO_CALLBACKS
) -> None:
    loss, network = _own(loss), task.network(recorder.seed)
    recorder.nudge(network)
    parameters = [*network.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    loss_dtype = None if dtype == torch.float64 else dtype
    training = Training(network, loss, optimizer, recorder, task.batch_size, recorder.seed, loss_dtype=loss_dtype)
    fit(training, _train_split(task, dtype), task.splits[1], STEPS, callbacks)


class _Enough(Exception):
    """Ends a training whose other steps tell nothing more."""


def _evidence(ours: Loss, theirs: Loss, task: Task, dtype: torch.dtype, last: int) -> Evidence:
    """Both losses on the logits of a training with the reference, at the step up to `last` where they differ most."""
    found: list[tuple[float, Evidence]] = []

    def compared(logits: Tensor, target: Tensor) -> Tensor:
        (value, gradient), (expected, expected_gradient) = (_on(each, logits, target) for each in (ours, theirs))
        error = (gradient - expected_gradient).norm() / expected_gradient.norm() + abs(value / expected - 1)
        evidence = Evidence(len(found) + 1, value, expected, gradient, expected_gradient)
        found.append((float(error.nan_to_num(torch.inf)), evidence))
        return theirs(logits, target)

    def after_step() -> None:
        if len(found) == last:
            raise _Enough

    with suppress(_Enough):
        lr = _learning_rate(theirs, task, dtype)
        _train(compared, task, dtype, lr, Recorder(steps=STEPS), Callbacks(after_step=after_step))
    return max(found, key=lambda each: each[0])[1]


def _on(loss: Loss, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """Value and gradient, on the CPU, of these logits, which are left as they are."""
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf.clone(), target.clone())
    return value.item(), torch.autograd.grad(value, leaf)[0].cpu()
