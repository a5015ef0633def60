"""The two exceptions that a person reads, in one line: what happened, what was expected, what to do."""


class BadInput(Exception):
    """An input cannot be used."""


class Stopped(Exception):
    """A training had to stop. Its last checkpoint is kept."""


def in_one_line(error: Exception) -> str:
    """The type of an error and its message, without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
