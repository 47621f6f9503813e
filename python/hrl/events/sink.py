"""The base of every sink of events: a bounded queue, and threads that deliver what is in it.

Calling a sink never waits for a delivery. Events that find the queue full are counted. The count is delivered as an event of
its own as soon as an event is taken, so a reader of the sink learns of the hole. Nothing is lost silently: `close` reports
what it did not deliver to `on_problem`.
"""

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from hrl.events.kinds import DROPPED
from hrl.words import clean, count

Event = dict[str, str]
QUEUE_EVENTS_MAX = 1000
CLOSE_SECONDS = 10.0
"""How long `close` waits for deliveries unless it is given a limit."""


def print_problem(message: str) -> None:
    """Prints a problem as a line on standard error."""
    print(f"hrl: {clean(message)}", file=sys.stderr, flush=True)


class EventSink(ABC):
    """A destination of events with a queue of its own. Any thread may call it with an event, at any time."""

    def __init__(
        self,
        name: str,
        *,
        threads: int = 1,
        queue_events_max: int = QUEUE_EVENTS_MAX,
        on_problem: Callable[[str], object] = print_problem,
    ) -> None:
        self.name = name
        self._problem = on_problem
        self._most = queue_events_max
        self._queue: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._missed = 0
        self._dropped = 0
        # Daemons, so that a delivery that hangs does not keep the process alive.
        self._threads = [threading.Thread(target=self._work, name=f"hrl-{name}", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __call__(self, event: Event) -> None:
        """Queues an event; counts it if the queue is full or the sink is closed."""
        if not self.wants(event):
            return
        with self._changed:
            if len(self._queue) >= self._most or self._closing.is_set():
                self._missed += 1
                self._dropped += 1
            else:
                self._queue.append(dict(event))
                self._changed.notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """Returns how many events were never delivered: the queue was full, or delivery failed for good."""
        return self._dropped

    def wants(self, event: Event) -> bool:
        """Reports whether the sink takes an event."""
        return True

    @abstractmethod
    def deliver(self, event: Event) -> None:
        """Delivers one event, on a thread of the sink. Raises `OSError` or `ValueError` if that failed."""

    def close(self, limit: float = CLOSE_SECONDS) -> None:
        """Delivers what is queued, for at most `limit` seconds, and ends the threads. May be called again."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        end = time.monotonic() + limit
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        with self._changed:
            left, self._missed = len(self._queue) + self._missed, 0
            self._dropped += len(self._queue)
            self._queue.clear()
        hanging = sum(thread.is_alive() for thread in self._threads)
        if left or hanging:
            under_way = f"; still under way: {count(hanging, 'delivery', 'deliveries')}" if hanging else ""
            self._problem(f"{self.name}: {count(left, 'event')} not delivered when it was closed{under_way}")

    def _work(self) -> None:
        failing = False
        while events := self._take(1):
            for event in events:
                try:
                    self.deliver(event)
                    failing = False
                except (OSError, ValueError) as error:
                    self._lose(1)
                    # Once for each series of failures, so that a full disk does not fill standard error, too.
                    if not failing:
                        self._problem(f"{self.name}: cannot deliver {event['kind']}: {error}")
                    failing = True

    def _take(self, most: int, *, wait: bool = True) -> list[Event]:
        """Takes up to `most` events, after one about those that were missed; none if the sink is closed and empty."""
        with self._changed:
            while wait and not self._queue and not self._closing.is_set():
                self._changed.wait()
            taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
            if taken and self._missed:
                taken.insert(0, self._missed_event(taken[0]["volume"]))
        return taken

    def _missed_event(self, volume: str) -> Event:
        message = f"{count(self._missed, 'event')} did not fit the queue of {self._most} events"
        self._missed = 0
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": now, "volume": volume, "kind": DROPPED, "message": message}

    def _lose(self, count: int) -> None:
        with self._changed:
            self._dropped += count
