import pytest
import torch

from xent.losses.impostors import MISTAKES, MISTAKES_IN_IGNORING, Impostor
from xent.testing import assert_same_learning
from xent.testing.same_learning import judge_learning
from xent.training.task import Task

each_mistake = pytest.mark.parametrize("mistake", MISTAKES)


@each_mistake
def test_training_calls_every_impostor_different(mistake: str) -> None:
    with pytest.raises(AssertionError, match="training is different"):
        assert_same_learning(Impostor(mistake), ignored=0.1 if mistake in MISTAKES_IN_IGNORING else 0)


@pytest.mark.parametrize("mistake", MISTAKES_IN_IGNORING)
def test_a_mistake_in_ignoring_does_not_show_where_nothing_is_ignored(mistake: str) -> None:
    reference = torch.nn.CrossEntropyLoss()
    assert judge_learning(Impostor(mistake), reference, Task(10)).verdict != "different"


@each_mistake
def test_every_impostor_states_its_mistake_in_a_line(mistake: str) -> None:
    doc = MISTAKES[mistake].__doc__
    assert doc is not None and len(doc.splitlines()) == 1


@pytest.mark.parametrize("mistake", [mistake for mistake in MISTAKES if mistake not in MISTAKES_IN_IGNORING])
def test_impostors_ignore_what_is_to_be_ignored(mistake: str) -> None:
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 3, 3, 2, 1])
    kept = target != 3
    expected = Impostor(mistake)(logits[kept], target[kept])
    assert torch.equal(Impostor(mistake, ignore_index=3)(logits, target), expected)
