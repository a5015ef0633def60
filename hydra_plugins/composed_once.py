"""A sweeper that composes each job once. Hydra's own composes all before the first, and its launcher each again."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class ComposedOnce(BasicSweeper):
    """For sweeps that a callback has tried before: xent.cli.sweep.BeginSweep composes every value."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave that to the callback and the launcher."""
