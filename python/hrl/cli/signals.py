"""The signals that end a command which otherwise runs on."""

import contextlib
import os
import select
import signal
from collections.abc import Callable

ENDING = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """A flag that signal handlers may set, and that threads wait for.

    `threading.Event` is no such flag: a handler runs in the thread that waits, in the middle of the event's own lock, and
    would wait for itself. This one takes no lock; what wakes the waiting thread is a byte in a pipe.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        os.close(self._wake)
        os.close(self._write)

    def set(self) -> None:
        """Sets the flag. May be called again, from any thread and from handlers of signals."""
        self._is_set = True
        # A pipe that is full of earlier calls wakes just as well.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")

    def clear(self) -> None:
        """Takes the flag back. No other thread may set it meanwhile."""
        self._is_set = False
        while select.select([self._wake], [], [], 0)[0]:
            os.read(self._wake, 4096)

    def is_set(self) -> bool:
        """Returns whether the flag is set."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the flag is set, for at most `timeout` seconds. Returns whether it is."""
        if not self._is_set:
            select.select([self._wake], [], [], timeout)
        return self._is_set


def on_signals(act: Callable[[], object], numbers: tuple[signal.Signals, ...] = ENDING) -> None:
    """Makes the signals call `act` instead of ending the process. Only the main thread may call this.

    `act` runs between any two steps of the main thread, so it must take no lock.
    """
    for number in numbers:
        signal.signal(number, lambda *_: act())


def ended_by_signals(numbers: tuple[signal.Signals, ...] = ENDING) -> Ending:
    """Returns a flag that the signals set from here on."""
    ended = Ending()
    on_signals(ended.set, numbers)
    return ended
