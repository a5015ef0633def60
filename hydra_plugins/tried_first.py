"""A Hydra sweeper that tries the runs of a sweep before the first one starts."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from xent.cli.sweep import try_sweep


class TriedFirst(BasicSweeper):
    """Hydra's basic sweeper, with another check before launch.

    Hydra's own check composes every run of the sweep a second time. This one composes only what was not tried yet, and
    tries its data and its loss too.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Refuse the whole sweep if one of its runs is wrong.

        Raises:
            SystemExit: a run is wrong; the reason is printed in one line.
        """
        config, context = self.config, self.hydra_context
        assert config is not None and context is not None
        try_sweep(config, batch, lambda overrides: context.config_loader.load_sweep_config(config, overrides))
