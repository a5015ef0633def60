"""The proof of a loss of your own, on a synthetic task: `assert_same_learning(MyLoss())`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xent.recording import BadInput, Recorder
from xent.recording.errors import where_raised
from xent.recording.float64 import LookingOn, judging_in
from xent.report.explanation import Evidence, explanation, explanation_of_trials
from xent.testing.same_training import SAME, computed_in, half_types, judge_training, seeds_and_nudges
from xent.testing.trained import Train, where_it_begins
from xent.training.data import batches
from xent.training.diagnostics import value_and_gradient
from xent.training.loop import Training, fit
from xent.training.loss_in_float64 import LossInFloat64
from xent.training.task import STEPS, Task
from xent.training.trials import Outcomes, differing, large_logits, other_batches
from xent.training.validate_loss import Loss, copied, in_working_type, trial_logits, validate_loss
from xent.verdict.judging import Judgement

STEP_LENGTH = 0.03  # of a gradient descent step at the peak learning rate, before momentum


def assert_same_learning(  # noqa: PLR0913  each a keyword of its own, as a caller writes them
    loss: Loss,
    reference: Loss | None = None,
    *,
    classes: int = 10,
    batch: int | None = None,
    ignored: float = 0.0,
    ignore_index: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    probabilities: bool = False,
    places: tuple[int, ...] = (),
    steps: int = STEPS,
    seeds: int | None = None,
    where: bool = True,
) -> None:
    """Assert that training with `loss` behaves as training with `reference`, down to rounding.

    Trains a small network in float64 on a synthetic task, 256 steps with each loss. Casts inside a loss are seen
    through, as by `xent.recording.all_in_float64`. Then it trains four more times with the reference, nudged: from
    weights moved by one ULP, with batches in another order. That is the floor. To prove arguments of a loss, give them
    to both losses:

    >>> weight = torch.tensor([1.0, 2.0, 0.5])
    >>> losses = xent.CrossEntropyLossFromScratch, nn.CrossEntropyLoss
    >>> ours, theirs = (loss(weight, label_smoothing=0.1) for loss in losses)
    >>> assert_same_learning(ours, theirs, classes=3, ignored=0.2)

    What no short training shows is tried after it, on one batch each, where the reference takes that: logits of 1000
    and -1000, a class at -inf, logits and targets that are not contiguous, batches of 1 and of 1031, class indices of
    other types, and the gradient of targets that are probabilities. A loss that raises an error there passes with a
    warning; one that gives other numbers fails.

    A loss that casts to float32, where the reference does not, is judged a second time as it is written, on float32
    logits, from four seeds with two nudges. One that casts to a half type is the same function at best: it fails unless
    `dtype` names that type.

    Args:
        loss: `(logits [batch, classes], class indices [batch]) -> scalar`, a module or a function.
        reference: the loss to compare it with; defaults to `torch.nn.CrossEntropyLoss()`.
        classes: the number of classes of the task, at least 2.
        batch: the number of targets in a batch. Defaults to 131 that are not ignored; to 29 in a type other than
            float64, or where logits are many.
        ignored: the fraction of the targets, from 0 to below 1, that is `ignore_index`.
        ignore_index: the index of targets that do not count. Defaults to that of the reference, an attribute of the
            module or a keyword of the partial function, or to -100.
        dtype: of the logits that both losses get. Another than float64 judges both as they are written, from four seeds
            with two nudges, which move the logits by one ULP of that type at every step: so the floor is what rounding
            in it may do. A kernel that PyTorch cannot see into (Triton, NumPy) needs the type that it computes in.
        device: where network and losses are.
        probabilities: whether targets are distributions `[batch, classes, *places]`.
        places: logits are `[batch, classes, *places]` and class indices `[batch, *places]`.
        steps: of each training. With fewer, what a loss does where the network is sure of a class is not proved.
        seeds: how many trainings of each kind; defaults to 1, or to 4 in another dtype than float64. With fewer, a
            mistake has to be larger to be found.
        where: whether to train again if they differ, to name the first tensor that does.

    Raises:
        BadInput: the loss cannot be trained with.
        ValueError: an argument is out of range.
        AssertionError: it trains differently, or nothing was proved; the message says why, and what to try.
    """
    __tracebackhide__ = True  # for pytest, which shows the call instead
    reference = nn.CrossEntropyLoss() if reference is None else reference
    known_index = _ignore_index(reference) if ignore_index is None else ignore_index
    if classes < 2 or not 0 <= ignored < 1 or (probabilities and ignored):
        what = f"classes={classes}, ignored={ignored}, probabilities={probabilities}"
        expected = "expected 2 classes or more, and a part from 0 to below 1"
        raise ValueError(f"{what}: {expected}, 0 with probabilities, which have no index to ignore")
    if dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype={dtype}: expected torch.float64, float32, bfloat16 or float16")
    if min(steps, 1 if batch is None else batch, 1 if seeds is None else seeds) < 1:
        raise ValueError(f"batch={batch}, steps={steps}, seeds={seeds}: expected 1 or more of each")
    index = -100 if known_index is None else known_index
    task = Task(classes, ignored, index, places, probabilities, device, dtype, batch, steps)
    try:
        failure, raised = _examined(loss, reference, task, seeds, where)
    except BadInput as refusal:
        advice = "; the index of ignored targets was taken to be -100: give ignore_index="
        message = f"{refusal}{advice if ignored and known_index is None else ''}"
        raise BadInput(message) from None  # what it says is all there is to see
    if failure:
        raise AssertionError(failure)
    if raised:
        errors = "; ".join(f"{trial} ({error})" for trial, error in raised.items())
        warnings.warn(f"not proved, since the loss raises an error there: {errors}", stacklevel=2)


def _ignore_index(reference: Loss) -> int | None:
    """The index that a reference ignores; None if it does not say."""
    holders = [vars(module) for module in reference.modules()] if isinstance(reference, nn.Module) else []
    holders += [reference.keywords] if isinstance(reference, partial) else []
    return next((holder["ignore_index"] for holder in holders if isinstance(holder.get("ignore_index"), int)), None)


def _examined(loss: Loss, reference: Loss, task: Task, seeds: int | None, where: bool) -> tuple[str, dict[str, str]]:
    """Why the losses are not the same, empty if they are; and the errors that the loss raised in trials, by name."""
    if failure := _differing_in_training(loss, reference, task, seeds, where):
        return failure, {}
    ours, theirs = (_looked_at(one, task).narrower for one in (loss, reference))
    if task.dtype == torch.float64 and (half := half_types(ours, theirs)):
        coarsest = max(half, key=lambda dtype: torch.finfo(dtype).eps)
        return f"{computed_in(half)}\n  if that is meant, judge it with dtype={coarsest}", {}
    outcomes, raised = differing_in_trials(loss, reference, task)
    failure = explanation_of_trials(outcomes) if outcomes else ""
    if task.dtype == torch.float64 and ours - theirs and not failure:
        failure, _ = _examined(loss, reference, replace(task, dtype=torch.float32), seeds, where)
        failure += "\n  it casts to float32, so it was judged as written too, on float32 logits" if failure else ""
    return failure, raised


def _differing_in_training(loss: Loss, reference: Loss, task: Task, seeds: int | None, where: bool) -> str:
    """Why training with the losses is not the same; empty if it is."""
    judgement, losses = _judged(loss, reference, task, seeds)
    if judgement.verdict in SAME:
        return ""
    evidence = None
    with suppress(Exception):  # a loss may raise one at any call
        evidence = _evidence(*losses, task, judgement.left_floor) if judgement.left_floor else None
    begins: list[str] = []
    if where and judgement.left_floor:
        with _as_in_a_proof(task):
            begins = where_it_begins(*_trainings(*losses, task), judgement, _settings(task), None, None)
    advice = "more steps, fewer classes, fewer ignored targets, or weights that are closer to each other"
    is_rounding = task.dtype == torch.float64 and evidence is not None and evidence.is_off_by_rounding
    is_rounding = is_rounding and not _looked_at(loss, task).is_pytorchs
    hint = "it computes outside of PyTorch, where float64 does not reach: give the dtype that it computes in"
    return explanation(judgement, advice, evidence, begins, hint if is_rounding else "")


def judge_learning(loss: Loss, reference: Loss, task: Task) -> Judgement:
    """Judge training with `loss` on a task against training with the reference.

    Raises:
        BadInput: one of the losses cannot be trained with.
    """
    return _judged(loss, reference, task)[0]


def _judged(loss: Loss, reference: Loss, task: Task, seeds: int | None = None) -> tuple[Judgement, tuple[Loss, Loss]]:
    """The judgement, and both losses as they were judged.

    Where nothing is cast, seeing through casts would only take time. It is done nevertheless if the losses differ, or
    one raises an error: it widens what a loss holds or makes in float32 too.
    """
    prepared = _prepared(loss, task, "the loss"), _prepared(reference, task, "the reference")
    as_judged = [prepared]
    if task.dtype == torch.float64:
        in_float64 = LossInFloat64(prepared[0], set()), LossInFloat64(prepared[1], set())
        casts = any(_looked_at(one, task).narrower for one in (loss, reference))
        as_judged = [in_float64] if casts else [prepared, in_float64]
    for losses in as_judged[:-1]:
        with suppress(BadInput):
            judgement = _judged_as_they_are(*losses, task, seeds)
            if judgement.verdict in SAME:
                return judgement, losses
    return _judged_as_they_are(*as_judged[-1], task, seeds), as_judged[-1]


def _judged_as_they_are(loss: Loss, reference: Loss, task: Task, seeds: int | None) -> Judgement:
    seeds_of_dtype, nudges = seeds_and_nudges(task.dtype)
    with _as_in_a_proof(task):
        trainings = _trainings(loss, reference, task)
        return judge_training(*trainings, task.steps, seeds or seeds_of_dtype, nudges, _settings(task))


def differing_in_trials(loss: Loss, reference: Loss, task: Task) -> tuple[Outcomes, dict[str, str]]:
    """The outcomes of both losses in trials where they differ; and the errors that the loss raised, by name."""
    losses = _prepared(loss, task, "the loss"), _prepared(reference, task, "the reference")
    target = task.splits[0].labels
    trials = large_logits(target, task.classes, task.dtype)
    trials += other_batches(target, task.classes, task.dtype, task.ignore_index)
    with judging_in(task.dtype):
        return differing(*losses, trials)


@contextmanager
def _as_in_a_proof(task: Task) -> Iterator[None]:
    """Train on one thread, and in float64 without compiling."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on so small a network, threads only wait for each other, and long on a busy machine
    try:
        with torch.compiler.set_stance("force_eager" if task.dtype == torch.float64 else "default"):
            yield
    finally:
        torch.set_num_threads(threads)


def _trainings(loss: Loss, reference: Loss, task: Task) -> tuple[Train, Train]:
    """The trainings with both losses, which were prepared."""
    lr = _learning_rate(reference, task)
    return partial(_train, loss, task, lr), partial(_train, reference, task, lr)


def _settings(task: Task) -> dict[str, str]:
    return {"precision": "float64", "loss_precision": str(task.dtype).removeprefix("torch.")}


def _prepared(loss: Loss, task: Task, name: str) -> Loss:
    """The loss on the task's device, in a type that it works in; of a module, a copy.

    Raises:
        BadInput: it cannot be trained with.
    """
    loss, (logits, target) = copied(loss), _trial(task)
    with judging_in(task.dtype):
        if isinstance(loss, nn.Module):
            return in_working_type(loss.to(task.device), task.dtype, logits, target, name)
        validate_loss(loss, logits, target, name)
        return loss


class Computation(NamedTuple):
    """How a loss computes as it is written: in which types narrower than its logits, and whether by PyTorch alone."""

    narrower: set[torch.dtype]
    is_pytorchs: bool


def _looked_at(loss: Loss, task: Task) -> Computation:
    """Look at a loss as it is written, on logits in float64 and in float32."""
    narrower, is_pytorchs = set[torch.dtype](), True
    for dtype in (torch.float64, torch.float32):
        logits, target = _trial(replace(task, dtype=dtype))
        copy = copied(loss)
        typed = copy.to(task.device, dtype) if isinstance(copy, nn.Module) else copy
        with LookingOn(logits.requires_grad_()) as looking, suppress(Exception):  # it may take one of the types alone
            value = typed(logits, target)
            is_pytorchs = looking.follows(value)
            value.backward()
        narrower |= {one for one in looking.narrower if torch.finfo(one).eps > torch.finfo(dtype).eps}
    return Computation(narrower, is_pytorchs)


def _trial(task: Task) -> tuple[Tensor, Tensor]:
    """A batch of logits, some rows confident of a class, and of the task's targets."""
    target = task.splits[0].labels[: task.batch_size]
    return trial_logits((len(target), task.classes, *task.places), task.dtype, torch.device(task.device)), target


def _learning_rate(reference: Loss, task: Task) -> float:
    """The learning rate of both losses: STEP_LENGTH over the reference's mean gradient norm at the first weights.

    Raises:
        BadInput: the reference raises an error, or has no gradient.
    """
    network, loss = task.network(), copied(reference)
    norms: list[float] = []
    for images, target in batches(task.splits[0], task.batch_size, seed=0, steps=16):
        try:
            gradients = torch.autograd.grad(loss(network(images).to(task.dtype), target), list(network.parameters()))
        except Exception as error:  # anyone's loss may raise anything
            raise BadInput(f"the reference cannot be computed on a batch ({where_raised(error)})") from error
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
    if not sum(norms):
        raise BadInput("the gradient of the reference is 0 on every batch: it trains nothing")
    return STEP_LENGTH / (sum(norms) / len(norms))


def _train(loss: Loss, task: Task, lr: float, recorder: Recorder, last: int | None = None) -> None:
    """Train with a loss on a task, up to the step `last` if there is one, and record it."""
    loss, network = copied(loss), task.network(recorder.seed)
    if isinstance(loss, LossInFloat64):
        loss.casts = recorder.trace.casts
    recorder.nudge(network)
    parameters = [*network.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    loss_dtype = None if task.dtype == torch.float64 else task.dtype
    training = Training(network, loss, optimizer, recorder, task.batch_size, recorder.seed, loss_dtype=loss_dtype)
    for step in fit(training, *task.splits, log_every=task.steps, test_every=task.steps):
        if step.number == last:
            break


def _evidence(ours: Loss, theirs: Loss, task: Task, last: int) -> Evidence:
    """Both losses on the logits of a training with the reference, at the step up to `last` where they differ most."""
    evidence: list[tuple[float, Evidence]] = []

    def compared(logits: Tensor, target: Tensor) -> Tensor:
        value, gradient = value_and_gradient(ours, logits, target)
        expected, expected_gradient = value_and_gradient(theirs, logits, target)
        error = (gradient - expected_gradient).norm() / expected_gradient.norm() + abs(value / expected - 1)
        indices = None if task.probabilities else target.cpu().clamp(0, task.classes - 1)[:, None]
        values, gradients = (value.item(), expected.item()), (gradient.cpu(), expected_gradient.cpu())
        both = Evidence(len(evidence) + 1, *values, *gradients, logits.softmax(1).cpu(), indices)
        evidence.append((float(error.nan_to_num(torch.inf)), both))
        return theirs(logits, target)

    _train(compared, task, _learning_rate(theirs, task), Recorder(steps=task.steps), last)
    return max(evidence, key=lambda pair: pair[0])[1]
