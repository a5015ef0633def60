"""The one exception for what a person can put right."""


class BadInput(Exception):
    """What was given cannot be used. The message is one line: what was given, what was expected, what to do."""
