"""What is random in a run: one stream for each purpose, the same everywhere."""

from itertools import combinations, product

import pytest

from xent.recording.streams import KEYS, random_words, stream

# How many numbers each purpose is drawn from.
NUMBERS = {"first weights": 1, "batches": 2, "nudged weights": 1, "nudged order": 2, "nudged logits": 2}
# No machine and no version of NumPy may change the draws unseen.
PINNED = {
    "first weights": 17262256342953999826,
    "batches": 6483051394184945791,
    "nudged weights": 587199507842006419,
    "nudged order": 268859156807062359,
    "nudged logits": 4248535460908280859,
}


def draws(purpose: str, *numbers: int) -> tuple[int, ...]:
    return tuple(random_words(stream(purpose, *numbers), 4).tolist())


def test_no_two_purposes_share_their_draws() -> None:
    assert set(NUMBERS) == {*KEYS, "batches"}
    drawn = {
        (purpose, numbers): set(draws(purpose, *numbers))
        for purpose, count in NUMBERS.items()
        for numbers in product(range(3), repeat=count)
    }
    assert drawn["first weights", (1,)].isdisjoint(drawn["nudged weights", (1,)])
    assert all(one.isdisjoint(other) for one, other in combinations(drawn.values(), 2))


@pytest.mark.parametrize("purpose", NUMBERS)
def test_a_stream_is_the_same_everywhere(purpose: str) -> None:
    assert draws(purpose, *(2, 3)[: NUMBERS[purpose]])[0] == PINNED[purpose]
