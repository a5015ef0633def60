"""Traces in, verdicts out: which runs are matched, how far apart they are, and whether that is rounding."""
