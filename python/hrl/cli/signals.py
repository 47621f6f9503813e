"""The signals that end a command which otherwise runs on."""

import contextlib
import functools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def heeded(numbers: tuple[signal.Signals, ...]) -> list[signal.Signals]:
    """Returns the signals without a SIGHUP that was switched off for this process, as `nohup` does."""
    return [number for number in numbers if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]


@functools.cache
def pipe() -> tuple[int, int]:
    """Returns the two ends of the pipe that wakes the waiting thread. A process has one and never closes it."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


class Ending:
    """A flag that handlers of signals may set, and that one thread waits for.

    `threading.Event` is no such flag. A handler runs in the thread that waits, in the middle of the event's own lock, and
    would wait for itself; and a signal that comes just before the wait begins is not handled until the wait is over. This
    one takes no lock, and the interpreter itself writes the byte that wakes the thread, before any handler runs.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake, self._write = pipe()

    def set(self) -> None:
        """Sets the flag. May be called again, from any thread and from handlers of signals."""
        self._is_set = True
        # A pipe that is full of earlier calls wakes just as well.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")

    def clear(self) -> None:
        """Takes the flag back. No other thread may set it meanwhile."""
        self._is_set = False

    def is_set(self) -> bool:
        """Returns whether the flag is set."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the flag is set, for at most `timeout` seconds. Returns whether it is."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._is_set:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            if select.select([self._wake], [], [], left)[0]:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
        return self._is_set


def on_signals(act: Callable[[], object], numbers: tuple[signal.Signals, ...] = ENDING) -> None:
    """Makes the signals call `act` instead of ending the process. Only the main thread may call this.

    `act` runs between any two steps of the main thread, so it must take no lock.
    """
    signal.set_wakeup_fd(pipe()[1], warn_on_full_buffer=False)
    for number in heeded(numbers):
        signal.signal(number, lambda *_: act())


def ended_by_signals(numbers: tuple[signal.Signals, ...] = ENDING) -> Ending:
    """Returns a flag that the signals set from here on."""
    ended = Ending()
    on_signals(ended.set, numbers)
    return ended


@contextlib.contextmanager
def raising(numbers: tuple[signal.Signals, ...] = ENDING) -> Iterator[None]:
    """Makes the signals raise `KeyboardInterrupt` while the block runs, so that it can take down what it made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in heeded(numbers)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
