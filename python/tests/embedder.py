"""A device and a store as an embedder might write them, for the tests."""

import threading
from collections.abc import Iterable
from typing import Any

from typing_extensions import Buffer

QUICK = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "region_bytes": "65536"}


class DictDevice:
    """A disk in a bytearray. Every call raises `broken` while it is set."""

    def __init__(self, size_bytes: int) -> None:
        self.content = bytearray(size_bytes)
        self.calls: list[tuple[Any, ...]] = []
        self.broken: BaseException | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int, /) -> Buffer:
        self.record("read", offset, length)
        return memoryview(self.content)[offset : offset + length]

    def write(self, offset: int, data: bytes, /, *, durable: bool) -> None:
        self.record("write", offset, len(data), durable)
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.record("flush")

    def record(self, *call: Any) -> None:
        self.calls.append(call)
        if self.broken is not None:
            raise self.broken


class FullDevice(DictDevice):
    """A `DictDevice` with every optional attribute and method."""

    name = "the disk of a test"
    block_bytes = 4096
    read_only = False

    def zero(self, offset: int, length: int, /, *, unmap: bool, durable: bool) -> None:
        self.record("zero", offset, length, unmap, durable)
        self.content[offset : offset + length] = bytes(length)

    def discard(self, offset: int, length: int, /) -> str:
        self.record("discard", offset, length)
        self.content[offset : offset + length] = bytes(length)
        return "zeroes"


class DictStore:
    """Objects in a dict. Every call raises `broken` while it is set."""

    name = "the store of a test"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.broken: BaseException | None = None

    def put_if_absent(self, name: str, data: bytes, /) -> bool:
        self.record()
        with self.lock:
            absent = name not in self.objects
            self.objects.setdefault(name, data)
            return absent

    def get(self, name: str, offset: int, length: int, /) -> Buffer:
        self.record()
        return self.objects[name][offset : offset + length]

    def list(self, prefix: str, /) -> Iterable[tuple[str, int]]:
        self.record()
        return [(name, len(data)) for name, data in self.objects.copy().items() if name.startswith(prefix)]

    def head(self, name: str, /) -> int | None:
        self.record()
        data = self.objects.get(name)
        return None if data is None else len(data)

    def delete(self, name: str, /) -> None:
        self.record()
        self.objects.pop(name, None)

    def record(self) -> None:
        if self.broken is not None:
            raise self.broken
