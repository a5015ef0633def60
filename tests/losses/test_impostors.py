import pytest
import torch

from xent.losses.impostors import MISTAKES, MISTAKES_IN_IGNORING, Impostor
from xent.testing.same_learning import judge_learning
from xent.training.task import Task


@pytest.mark.parametrize("mistake", MISTAKES)
def test_training_calls_every_impostor_different(mistake: str) -> None:
    task = Task(10, ignored=0.1 if mistake in MISTAKES_IN_IGNORING else 0)
    assert judge_learning(Impostor(mistake), torch.nn.CrossEntropyLoss(), task).verdict == "different"


@pytest.mark.parametrize("mistake", MISTAKES_IN_IGNORING)
def test_a_mistake_in_ignoring_does_not_show_where_nothing_is_ignored(mistake: str) -> None:
    assert judge_learning(Impostor(mistake), torch.nn.CrossEntropyLoss(), Task(10)).verdict != "different"


def test_every_impostor_states_its_mistake_in_a_line() -> None:
    assert all(len((mistake.__doc__ or "").splitlines()) == 1 for mistake in MISTAKES.values())


@pytest.mark.parametrize("mistake", [mistake for mistake in MISTAKES if mistake not in MISTAKES_IN_IGNORING])
def test_impostors_ignore_what_is_to_be_ignored(mistake: str) -> None:
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 3, 3, 2, 1])
    expected = Impostor(mistake)(logits[target != 3], target[target != 3])
    assert torch.equal(Impostor(mistake, ignore_index=3)(logits, target), expected)
