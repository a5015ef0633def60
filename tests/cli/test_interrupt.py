import signal
import threading

import pytest

from xent.cli.accompany import _interrupted_between_steps as interrupted_between_steps


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


def test_of_torchruns_processes_rank_0_alone_is_interrupted_by_either_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RANK", "0")
    for number in (signal.SIGINT, signal.SIGTERM):
        for rank in (0, 1):
            monkeypatch.setattr("xent.cli.accompany.rank", lambda rank=rank: rank)
            with interrupted_between_steps() as asked:
                signal.raise_signal(number)
                assert asked() == (rank == 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_which_gets_no_signals_nothing_is_held_back() -> None:
    handlers = [signal.getsignal(signal.SIGINT)]

    def train() -> None:
        with interrupted_between_steps() as asked:
            handlers.append(signal.getsignal(signal.SIGINT))
            assert not asked()

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert handlers[0] is handlers[1]
