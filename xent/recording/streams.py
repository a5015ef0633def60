"""Random number streams of a run: integers that are the same on every machine and version."""

import numpy as np

# PyTorch's generators draw in float32, with kernels that round as the processor does. NumPy's PCG64 is fixed.
KEYS = {
    "first weights": 0,  # numbers: seed
    "nudged order": 1,  # numbers: nudge, step
    "nudged logits": 2,  # numbers: nudge, step
    "nudged weights": 4,  # numbers: nudge
    "sketch": 5,  # numbers: part of the tensor
    "hash": 6,  # numbers: 0
}


def stream(purpose: str, *numbers: int) -> np.random.Generator:
    """The random generator for a purpose and the numbers that seed it. No two of them share their draws.

    Args:
        purpose: one of `KEYS`, or `batches`.
        numbers: those that stand beside the purpose in `KEYS`; for `batches`, seed and epoch.
    """
    if purpose == "batches":
        return np.random.default_rng(numbers)
    number, *others = numbers
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(number, spawn_key=(KEYS[purpose], *others))))


def random_words(generator: np.random.Generator, count: int) -> np.ndarray:
    """The next `count` words of 64 random bits: uint64 `[count]`."""
    return generator.bit_generator.random_raw(count)
