"""What every sink of events is: a bounded queue, and threads that deliver what is in it.

Calling a sink never waits for a delivery. Events that find the queue full are counted, and the count is delivered as an
event of its own as soon as something is taken, so whoever reads the sink learns of the hole. Nothing is lost silently: what
is still there when `close` gives up is told to `on_problem`.
"""

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

Event = dict[str, str]
DROPPED = "events-dropped"
"""Kind of the event that tells how many others did not fit the queue."""
QUEUE_EVENTS_MAX = 1000
CLOSE_SECONDS = 10.0
"""How long `close` waits for what is left, where nothing else is said."""


def tell_problem(message: str) -> None:
    """A line on standard error."""
    print(f"hrl: {message}", file=sys.stderr, flush=True)


class EventSink(ABC):
    """A destination of events with a queue of its own. Call it with each event; any thread may, at any time."""

    def __init__(
        self,
        name: str,
        *,
        threads: int = 1,
        queue_events_max: int = QUEUE_EVENTS_MAX,
        on_problem: Callable[[str], object] = tell_problem,
    ) -> None:
        self.name = name
        self._problem = on_problem
        self._most = queue_events_max
        self._queue: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._missed = 0
        self._dropped = 0
        # Daemons: a delivery that hangs does not keep the process.
        self._threads = [threading.Thread(target=self._work, name=f"hrl-{name}", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __call__(self, event: Event) -> None:
        """Queues an event, or counts it when the queue is full or the sink closed."""
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
        """Events that were never delivered: the queue was full, or delivery failed for good."""
        return self._dropped

    def wants(self, event: Event) -> bool:
        """Whether an event is for this sink."""
        return True

    @abstractmethod
    def deliver(self, event: Event) -> None:
        """Delivers one event, on a thread of the sink. An `OSError` or `ValueError` means that it was not."""

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
            under_way = f"; {hanging} deliveries were still under way" if hanging else ""
            self._problem(f"{self.name}: {left} events were not delivered when it was closed{under_way}")

    def _work(self) -> None:
        failing = False
        while events := self._take(1):
            for event in events:
                try:
                    self.deliver(event)
                    failing = False
                except (OSError, ValueError) as error:
                    self._lose(1)
                    # Once for each run of failures: a disk that is full would fill standard error, too.
                    if not failing:
                        self._problem(f"{self.name}: cannot deliver {event['kind']}: {error}")
                    failing = True

    def _take(self, most: int, *, wait: bool = True) -> list[Event]:
        """Up to `most` events, after one about those that were missed. Nothing when the sink is closed and empty."""
        with self._changed:
            while wait and not self._queue and not self._closing.is_set():
                self._changed.wait()
            taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
            if taken and self._missed:
                taken.insert(0, self._told_missed(taken[0]["volume"]))
        return taken

    def _told_missed(self, volume: str) -> Event:
        message = f"{self._missed} events did not fit the queue of {self._most} events"
        self._missed = 0
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": now, "volume": volume, "kind": DROPPED, "message": message}

    def _lose(self, count: int) -> None:
        with self._changed:
            self._dropped += count
