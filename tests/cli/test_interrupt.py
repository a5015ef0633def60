import signal

import pytest

from xent.cli.interrupt import interrupted_between_steps


def test_ctrl_c_waits_for_the_end_of_a_step() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupted_between_steps() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)  # raises nothing
        assert asked()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    with interrupted_between_steps():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
