"""The signals that end a command which otherwise runs on."""

import signal
import threading
from collections.abc import Callable

ENDING = (signal.SIGTERM, signal.SIGINT)


def on_signals(act: Callable[[], object], numbers: tuple[signal.Signals, ...] = ENDING) -> None:
    """Makes the signals call `act` instead of ending the process. Only the main thread may call this."""
    for number in numbers:
        signal.signal(number, lambda *_: act())


def ended_by_signals(numbers: tuple[signal.Signals, ...] = ENDING) -> threading.Event:
    """Returns an event that the signals set from here on."""
    ended = threading.Event()
    on_signals(ended.set, numbers)
    return ended
