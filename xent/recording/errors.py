"""The two exceptions that a person reads, in one line: what happened, what was expected, what to do."""


class BadInput(Exception):
    """An input cannot be used."""


class Stopped(Exception):
    """A training had to stop. Its last checkpoint is kept."""
