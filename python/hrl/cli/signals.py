"""The signals that end a command which runs until it is told to."""

import signal
import threading
from collections.abc import Callable

ENDING = (signal.SIGTERM, signal.SIGINT)


def on_signals(act: Callable[[], object], numbers: tuple[signal.Signals, ...] = ENDING) -> None:
    """From here on the signals do this instead of ending the process. Only the main thread may ask."""
    for number in numbers:
        signal.signal(number, lambda *_: act())


def ended_by_signals(numbers: tuple[signal.Signals, ...] = ENDING) -> threading.Event:
    """An event that the signals set from here on."""
    ended = threading.Event()
    on_signals(ended.set, numbers)
    return ended
