"""Hydra's sweeper, which composes every job before the first, and its launcher every job again: without the former."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class ComposedOnce(BasicSweeper):
    """Takes it that a callback has composed, and tried, what a sweep consists of: xent.cli.sweep.BeginSweep."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass
