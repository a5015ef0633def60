"""The proof as one line in anyone's test suite: `assert_same_learning(MyLoss())`."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from xent.training.data import Split, batches
from xent.training.loop import Training, fit
from xent.training.nudge import nudge_weights
from xent.training.trace import Trace
from xent.training.validate_loss import validate_loss
from xent.training.weights import draw_weights
from xent.verdict.judging import Judgement, Verdict, judge
from xent.verdict.matching import Pair

Loss = Callable[[Tensor, Tensor], Tensor]

STEPS = 256
BATCH = 29  # a number that nobody writes into a loss in place of the batch size
NUDGES = 4
IMAGES = 2048
LABEL_NOISE = 0.2  # without it the loss fades to nothing, and rounding grows in proportion


def assert_same_learning(
    loss: Loss, reference: nn.CrossEntropyLoss | None = None, *, classes: int = 10, ignored: float = 0.0
) -> None:
    """Assert that training with `loss` behaves as training with `reference`, down to rounding in float64.

    Trains a small network on a task made here, 256 steps with each, and four times more with the reference, nudged:
    from weights moved by one ULP, with batches in another order. That is the floor. Arguments of the loss are proved by
    giving them to both:

    >>> weight = torch.tensor([1.0, 2.0, 0.5])
    >>> losses = xent.CrossEntropyLossFromScratch, nn.CrossEntropyLoss
    >>> ours, theirs = (loss(weight, label_smoothing=0.1) for loss in losses)
    >>> assert_same_learning(ours, theirs, classes=3, ignored=0.2)

    Args:
        loss: `(logits [batch, classes] in float64, class indices [batch]) -> scalar`, a module or a function.
        reference: by default `torch.nn.CrossEntropyLoss()`.
        classes: of the task, at least 2.
        ignored: the part of the targets, from 0 to 1, that is `reference.ignore_index`.

    Raises:
        BadInput: the loss cannot be trained with.
        AssertionError: it does not; by how many decades, from which step, and the first wrong values.
    """
    reference = nn.CrossEntropyLoss() if reference is None else reference
    judgement = judge_learning(loss, reference, classes=classes, ignored=ignored)
    if judgement.verdict in (Verdict.DIFFERENT, Verdict.OTHER_VALUES):
        first_batch = next(batches(_split(classes, ignored, reference.ignore_index), BATCH, 0, 1))
        raise AssertionError(f"{_explanation(judgement)}; {_first_gradient(loss, reference, classes, *first_batch)}")


def judge_learning(loss: Loss, reference: nn.CrossEntropyLoss, *, classes: int, ignored: float) -> Judgement:
    """The judgement of `loss`: arguments as those of `assert_same_learning`."""
    if classes < 2 or not 0 <= ignored < 1:
        raise ValueError(
            f"classes={classes}, ignored={ignored}: expected 2 classes or more, and a part from 0 to below 1"
        )
    validate_loss(_in_float64(loss), classes, torch.float64)
    train = _split(classes, ignored, reference.ignore_index)
    probe = _split(classes, 0, 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others only wait for each other on so small a network, on a busy machine for long
    try:
        unnudged, *nudged = [_trained(reference, train, probe, n) for n in range(NUDGES + 1)]
        candidate = _trained(loss, train, probe, 0)
    finally:
        torch.set_num_threads(threads)
    (judgement,) = judge([Pair(candidate, unnudged, unnudged, nudged)])
    return judgement


def _split(classes: int, ignored: float, ignore_index: int) -> Split:
    """Images of 4x5 noise; a random linear map tells their class, but for some labels drawn anew.

    A few images are of eight times the contrast, so that there are rows of which the network is very sure, and wrong.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 1, 4, 5), dtype=torch.uint8, generator=generator)
    teacher = torch.randn(20, classes, generator=generator, dtype=torch.float64)
    labels = ((images.flatten(1).double() - 127.5) @ teacher).argmax(1)
    faint = torch.rand((IMAGES, 1, 1, 1), generator=generator) < 0.98
    images = torch.where(faint, 112 + images // 8, images)
    drawn = torch.randint(classes, (IMAGES,), generator=generator)
    labels = torch.where(torch.rand(IMAGES, generator=generator) < LABEL_NOISE, drawn, labels)
    labels = torch.where(torch.rand(IMAGES, generator=generator) < ignored, ignore_index, labels)
    mean = torch.full((1, 1, 1), 127.5, dtype=torch.float64)
    return Split(images, labels, classes, mean, std=mean / 16)


def _network(classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made
        network = nn.Sequential(nn.Flatten(), nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, classes))
    draw_weights(network, seed=0)
    return network.double()


def _trained(loss: Loss, train: Split, probe: Split, nudged: int) -> Trace:
    model = _network(train.classes)
    nudge_weights(model, nudged)
    loss = _in_float64(loss)
    parameters = [*model.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    trace = Trace({"nudge": nudged}, torch.full((STEPS,), torch.nan, dtype=torch.float64))
    fit(Training(model, loss, optimizer, trace, BATCH, seed=0, nudge=nudged), train, probe, log_every=STEPS)
    return trace


def _explanation(judgement: Judgement) -> str:
    (pair,) = judgement.pairs
    candidate, reference = pair.candidate.losses, pair.reference.losses
    rounding = torch.stack([(each.losses - reference).abs() for each in pair.nudged]).amax(0)
    wrong = ~((candidate - reference).abs() <= 10 * rounding)  # so that NaN is wrong too
    at = int(wrong.int().argmax())
    differs = judgement.verdict is Verdict.DIFFERENT
    found = judgement.outputs if differs else judgement.losses
    what = "training is different from" if differs else "the loss has other values, though training is the same as"
    return (
        f"{what} training with the reference: {found.margin:.1f} decades above the floor of rounding, "
        f"where nudged runs reach {found.noise:.1f}, from step {judgement.left_floor} on; "
        f"loss at step {at + 1}: {candidate[at]:.17g}, expected {reference[at]:.17g}"
    )


def _first_gradient(loss: Loss, reference: Loss, classes: int, images: Tensor, target: Tensor) -> str:
    """The entry of the gradient of the first batch's logits that is furthest off."""
    logits = _network(classes)(images).detach().requires_grad_()
    ours, theirs = (torch.autograd.grad(f(logits, target), logits)[0] for f in map(_in_float64, (loss, reference)))
    row, column = divmod(int((ours - theirs).abs().argmax()), classes)
    return (
        f"gradient of logit [{row}, {column}] of the first batch: {ours[row, column]:.17g}, "
        f"expected {theirs[row, column]:.17g}"
    )


def _in_float64(loss: Loss) -> Loss:
    return deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
