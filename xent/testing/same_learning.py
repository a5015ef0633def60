"""The proof of a loss of your own, on a synthetic task: `assert_same_learning(MyLoss())`."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from math import isclose, isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xent.recording import BadInput, Recorder
from xent.recording.errors import in_one_line
from xent.recording.float64 import LookingOn, judging_in
from xent.report.explanation import Evidence, explanation
from xent.testing.same_training import SAME, computed_in, half_types, judge_training, seeds_and_nudges
from xent.testing.trained import Train, where_it_begins
from xent.training.data import batches
from xent.training.diagnostics import value_and_gradient
from xent.training.loop import Training, fit
from xent.training.loss_in_float64 import LossInFloat64
from xent.training.task import STEPS, Task
from xent.training.validate_loss import Loss, in_working_type, trial_logits, validate_loss
from xent.verdict.judging import Judgement

STEP_LENGTH = 0.03  # of a gradient descent step at the peak learning rate, before momentum


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
    where: bool = True,
) -> None:
    """Assert that training with `loss` behaves as training with `reference`, down to rounding.

    Trains a small network in float64 on a synthetic task, 256 steps with each loss, inside
    `xent.recording.all_in_float64`: casts inside a loss are seen through. Then it trains four more times with the
    reference, nudged: from weights moved by one ULP, with batches in another order. That is the floor. To prove
    arguments of a loss, give them to both losses:

    >>> weight = torch.tensor([1.0, 2.0, 0.5])
    >>> losses = xent.CrossEntropyLossFromScratch, nn.CrossEntropyLoss
    >>> ours, theirs = (loss(weight, label_smoothing=0.1) for loss in losses)
    >>> assert_same_learning(ours, theirs, classes=3, ignored=0.2)

    A loss that casts to float32, where the reference does not, is judged a second time as it is written, on float32
    logits, from four seeds with two nudges. One that casts to a half type is the same function at best: it fails unless
    `dtype` names that type.

    Args:
        loss: `(logits [batch, classes], class indices [batch]) -> scalar`, a module or a function.
        reference: the loss to compare it with; defaults to `torch.nn.CrossEntropyLoss()`.
        classes: the number of classes of the task, at least 2.
        ignored: the fraction of the targets, from 0 to below 1, that is `reference.ignore_index`.
        dtype: of the logits that both losses get. Another than float64 judges both as they are written, from four seeds
            with two nudges, which move the logits by one ULP of that type at every step: so the floor is what rounding
            in it may do. A kernel that PyTorch cannot see into (Triton, NumPy) needs the type that it computes in.
        device: where network and losses are.
        probabilities: whether targets are distributions `[batch, classes, *places]`.
        places: logits are `[batch, classes, *places]` and class indices `[batch, *places]`.
        where: whether to train again if they differ, to name the first tensor that does.

    Raises:
        BadInput: the loss cannot be trained with.
        ValueError: an argument is out of range.
        AssertionError: it trains differently, or nothing was proved; the message says why, and what to try.
    """
    __tracebackhide__ = True  # for pytest, which shows the call instead
    reference = nn.CrossEntropyLoss() if reference is None else reference
    arguments = getattr(reference, "keywords", vars(reference) if isinstance(reference, nn.Module) else {})
    ignore_index = arguments.get("ignore_index", -100)
    if classes < 2 or not 0 <= ignored < 1 or (probabilities and ignored):
        what = f"classes={classes}, ignored={ignored}, probabilities={probabilities}"
        expected = "expected 2 classes or more, and a part from 0 to below 1"
        raise ValueError(f"{what}: {expected}, 0 with probabilities, which have no index to ignore")
    if dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype={dtype}: expected torch.float64, float32, bfloat16 or float16")
    task = Task(classes, ignored, ignore_index, places, probabilities, device, dtype)
    losses = _assert_same(loss, reference, task, where)
    _check_large_logits(*losses, task)
    if dtype == torch.float64:
        ours, theirs = (_looked_at(one, task).narrower for one in (loss, reference))
        if half := half_types(ours, theirs):
            coarsest = max(half, key=lambda dtype: torch.finfo(dtype).eps)
            raise AssertionError(f"{computed_in(half)}\n  if that is meant, judge it with dtype={coarsest}")
        if ours - theirs:
            note = "it casts to float32, so it was judged as written too, on float32 logits"
            _assert_same(loss, reference, replace(task, dtype=torch.float32), where, note)


def _assert_same(loss: Loss, reference: Loss, task: Task, where: bool, note: str = "") -> tuple[Loss, Loss]:
    """Assert that both losses train the same on a task.

    Args:
        where: whether to say where they part.
        note: the last line of the message, if they do not.

    Returns:
        both losses, prepared for the task.

    Raises:
        AssertionError: they do not; the message says why.
    """
    __tracebackhide__ = True
    losses = _prepared(loss, task, "the loss"), _prepared(reference, task, "the reference")
    judgement = _judged(*losses, task)
    if judgement.verdict in SAME:
        return losses
    evidence = _evidence(*losses, task, judgement.left_floor) if judgement.left_floor else None
    begins: list[str] = []
    if where and judgement.left_floor:
        with _as_in_a_proof(task):
            begins = where_it_begins(*_trainings(*losses, task), judgement, _settings(task), None, None)
    advice = "fewer classes, fewer ignored targets, or weights that are closer to each other"
    if not _looked_at(loss, task).is_pytorchs:
        note = "it computes outside of PyTorch, where float64 does not reach: give the dtype that it computes in"
    raise AssertionError("\n  ".join(filter(None, [explanation(judgement, advice, evidence, begins), note])))


def judge_learning(loss: Loss, reference: Loss, task: Task) -> Judgement:
    """Judge training with `loss` on a task against training with the reference.

    Raises:
        BadInput: one of the losses cannot be trained with.
    """
    return _judged(_prepared(loss, task, "the loss"), _prepared(reference, task, "the reference"), task)


def _judged(loss: Loss, reference: Loss, task: Task) -> Judgement:
    """The judgement of two losses that were prepared."""
    with _as_in_a_proof(task):
        return judge_training(*_trainings(loss, reference, task), STEPS, *seeds_and_nudges(task.dtype), _settings(task))


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
    loss, (logits, target) = _copy(loss), _trial(task)
    with judging_in(task.dtype):
        if isinstance(loss, nn.Module):
            return in_working_type(loss.to(task.device), task.dtype, logits, target, name)
        validate_loss(loss, logits, target, name)
        return loss


def _as_judged(loss: Loss, task: Task, casts: set[str]) -> Loss:
    """The loss as it is judged on a task; in float64 it casts to no narrower type."""
    return LossInFloat64(loss, casts) if task.dtype == torch.float64 else loss


class Computation(NamedTuple):
    """How a loss computes as it is written: in which types narrower than its logits, and whether by PyTorch alone."""

    narrower: set[torch.dtype]
    is_pytorchs: bool


def _looked_at(loss: Loss, task: Task) -> Computation:
    """Look at a loss as it is written, on logits in float64 and in float32."""
    narrower, is_pytorchs = set[torch.dtype](), True
    for dtype in (torch.float64, torch.float32):
        logits, target = _trial(replace(task, dtype=dtype))
        copy = _copy(loss)
        typed = copy.to(task.device, dtype) if isinstance(copy, nn.Module) else copy
        with LookingOn(logits.requires_grad_()) as looking, suppress(Exception):  # it may take one of the types alone
            value = typed(logits, target)
            is_pytorchs = looking.follows(value)
            value.backward()
        narrower |= {one for one in looking.narrower if torch.finfo(one).eps > torch.finfo(dtype).eps}
    return Computation(narrower, is_pytorchs)


def _trial(task: Task, sure: float = 30.0) -> tuple[Tensor, Tensor]:
    """A batch of logits, some rows confident of a class, and of the task's targets."""
    target = task.splits[0].labels[: task.batch_size]
    shape = len(target), task.classes, *task.places
    return trial_logits(shape, task.dtype, torch.device(task.device), sure), target


def _copy(loss: Loss) -> Loss:
    """A copy of a module, so that the caller's is left as it is; a function as it is.

    Raises:
        BadInput: the module cannot be copied.
    """
    try:
        return deepcopy(loss) if isinstance(loss, nn.Module) else loss
    except Exception as error:  # a lock, say
        advice = "give it as a function, lambda logits, target: loss(logits, target)"
        raise BadInput(f"the loss cannot be copied ({in_one_line(error)}): {advice}") from error


def _check_large_logits(loss: Loss, reference: Loss, task: Task) -> None:
    """Check the value of the loss at logits of 1000, which no short training reaches.

    Raises:
        AssertionError: it is not the reference's.
    """
    __tracebackhide__ = True
    logits, target = _trial(task, sure=1000)
    with judging_in(task.dtype):
        ours, theirs = (f(logits.clone().requires_grad_(), target.clone()).item() for f in (loss, reference))
    if isfinite(theirs) and not isclose(ours, theirs, rel_tol=0.1):
        advice = "subtract the largest logit of a row before exp, which overflows, and clamp nothing"
        raise AssertionError(f"the loss of logits of 1000 is {ours:.4g}, expected {theirs:.4g}\n  {advice}")


def _learning_rate(reference: Loss, task: Task) -> float:
    """The learning rate of both losses: STEP_LENGTH over the reference's mean gradient norm at the first weights."""
    network, loss = task.network(), _as_judged(_copy(reference), task, set())
    norms: list[float] = []
    for images, target in batches(task.splits[0], task.batch_size, seed=0, steps=16):
        gradients = torch.autograd.grad(loss(network(images).to(task.dtype), target), list(network.parameters()))
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
    return STEP_LENGTH / (sum(norms) / len(norms))


def _train(loss: Loss, task: Task, lr: float, recorder: Recorder, last: int = STEPS) -> None:
    """Train with a loss on a task up to the step `last`, and record it."""
    loss, network = _as_judged(_copy(loss), task, recorder.trace.casts), task.network(recorder.seed)
    recorder.nudge(network)
    parameters = [*network.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    loss_dtype = None if task.dtype == torch.float64 else task.dtype
    training = Training(network, loss, optimizer, recorder, task.batch_size, recorder.seed, loss_dtype=loss_dtype)
    for step in fit(training, *task.splits, log_every=STEPS):
        if step.number == last:
            break


def _evidence(ours: Loss, theirs: Loss, task: Task, last: int) -> Evidence:
    """Both losses on the logits of a training with the reference, at the step up to `last` where they differ most."""
    evidence: list[tuple[float, Evidence]] = []

    def compared(logits: Tensor, target: Tensor) -> Tensor:
        value, gradient = value_and_gradient(ours, logits, target)
        expected, expected_gradient = value_and_gradient(theirs, logits, target)
        error = (gradient - expected_gradient).norm() / expected_gradient.norm() + abs(value / expected - 1)
        both = Evidence(len(evidence) + 1, value.item(), expected.item(), gradient.cpu(), expected_gradient.cpu())
        evidence.append((float(error.nan_to_num(torch.inf)), both))
        return theirs(logits, target)

    _train(compared, task, _learning_rate(theirs, task), Recorder(steps=STEPS), last)
    return max(evidence, key=lambda pair: pair[0])[1]
