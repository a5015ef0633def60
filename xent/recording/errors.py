"""The two exceptions for a person to read, in one line: what happened, what was expected, what to do."""


class BadInput(Exception):
    """What was given cannot be used."""


class Stopped(Exception):
    """A training had to stop. The last checkpoint is kept."""
