"""The two exceptions that a person reads, in one line: what happened, what was expected, what to do."""

import os
from pathlib import Path
from traceback import extract_tb

import torch

PACKAGES = Path(__file__).parents[1], Path(torch.__file__).parent
NOT_THE_AUTHORS = *(f"{package}{os.sep}" for package in PACKAGES), "<"  # < begins the name of generated code


class BadInput(Exception):
    """An input cannot be used."""


class Stopped(Exception):
    """A training had to stop. Its last checkpoint is kept."""


def in_one_line(error: BaseException) -> str:
    """The type of an error and its message, without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def where_raised(error: Exception) -> str:
    """The error in one line, with the last line of its author's source that it came through."""
    message = in_one_line(error) if not isinstance(error, BadInput) else str(error)
    authors = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(NOT_THE_AUTHORS)]
    if not authors:
        return message
    file = min(authors[-1].filename, os.path.relpath(authors[-1].filename), key=len)
    return f"{message}; {file}:{authors[-1].lineno}: {authors[-1].line}"
