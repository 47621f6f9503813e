"""Signals that end a command, at every moment of its waiting."""

import os
import signal
import threading

from hrl.cli.signals import Ending, ended_by_signals


def test_a_signal_in_the_middle_of_waiting_never_waits_for_itself() -> None:
    """With `threading.Event` the handler took the event's lock from the thread that held it, once in some runs."""
    before = signal.getsignal(signal.SIGUSR1)
    try:
        for _ in range(2000):
            ended = ended_by_signals((signal.SIGUSR1,))
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start()
            while not ended.wait(0.0002):
                pass
            os.kill(os.getpid(), signal.SIGUSR1)
            assert ended.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_flag_is_set_often_cleared_and_waited_for() -> None:
    ended = Ending()
    assert not ended.wait(0.01)
    for _ in range(100_000):
        ended.set()
    assert ended.is_set() and ended.wait(0)
    ended.clear()
    assert not ended.is_set() and not ended.wait(0.01)
