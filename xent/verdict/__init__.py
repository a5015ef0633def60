"""Traces in, verdicts out: which runs are matched, how far apart they are, and the report of it."""
