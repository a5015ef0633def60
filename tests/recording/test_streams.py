"""What is random in a run: one stream for each purpose, the same everywhere."""

from itertools import combinations, product

from xent.recording.streams import KEYS, random_words, stream

# The first draw of each purpose for 2, or for 2 and 3. No machine and no version of NumPy may change it unseen.
PINNED = {
    ("first weights", 2): 17262256342953999826,
    ("batches", 2, 3): 6483051394184945791,
    ("nudged weights", 2): 587199507842006419,
    ("nudged order", 2, 3): 268859156807062359,
    ("nudged logits", 2, 3): 4248535460908280859,
}


def draws(purpose: str, *numbers: int) -> list[int]:
    return random_words(stream(purpose, *numbers), 4).tolist()


def test_a_stream_is_the_same_everywhere() -> None:
    assert {(purpose, *numbers): draws(purpose, *numbers)[0] for purpose, *numbers in PINNED} == PINNED


def test_no_two_purposes_share_their_draws() -> None:
    counts = {purpose: len(numbers) for purpose, *numbers in PINNED}
    assert set(counts) == {*KEYS, "batches"}
    streams = [(purpose, *n) for purpose, count in counts.items() for n in product(range(3), repeat=count)]
    assert all(set(draws(*one)).isdisjoint(draws(*other)) for one, other in combinations(streams, 2))
