"""Events as lines of JSON in a file of limited size.

Each line is one event. Before a file would exceed the limit it is renamed to FILE.1, FILE.1 to FILE.2 and so on; the oldest
is deleted. The file is opened for each event, so other programs may move it away. Lines are not synced, so a power failure
may lose the last of them.
"""

import json
import os
from pathlib import Path
from typing import Any

from hrl.events.sink import Event, EventSink

FILE_BYTES_MAX = 10 << 20
FILES_MAX = 5


class EventFile(EventSink):
    """Appends events to `path`, with at most `bytes_max` bytes a file and `files_max` files."""

    def __init__(
        self, path: str | Path, *, bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX, **options: Any
    ) -> None:
        if bytes_max < 1 or files_max < 1:
            raise ValueError("an event file needs room for one file of one byte at least")
        self._path = Path(path)
        self._bytes_max = bytes_max
        self._files_max = files_max
        # Opened now, so that a path that cannot be written fails at once.
        with open(self._path, "ab", opener=private):
            pass
        super().__init__(f"events file {self._path}", **options)

    def deliver(self, event: Event) -> None:
        """Appends a line."""
        line = json.dumps(event).encode() + b"\n"
        if self._size() and self._size() + len(line) > self._bytes_max:
            self._rotate()
        # One write without a buffer. If it was cut short, the rest follows or fails.
        with open(self._path, "ab", buffering=0, opener=private) as file:
            written = file.write(line)
            if written < len(line):
                file.write(line[written:])

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _rotate(self) -> None:
        if self._files_max == 1:
            self._path.unlink()
        for number in range(self._files_max - 1, 0, -1):
            source = self._older(number - 1)
            if source.exists():
                os.replace(source, self._older(number))

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def private(path: str, flags: int) -> int:
    """Opens a file; one that is made is its owner's alone."""
    return os.open(path, flags, 0o600)
