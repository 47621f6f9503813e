"""A device and a store as an embedder writes them, for the tests."""

import threading
from collections.abc import Iterable
from typing import Any

from typing_extensions import Buffer

QUICK = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "region_bytes": "65536"}


class DictDevice:
    """A disk in a bytearray. `broken` is raised by every call while it is set."""

    def __init__(self, size_bytes: int) -> None:
        self.content = bytearray(size_bytes)
        self.calls: list[tuple[Any, ...]] = []
        self.broken: BaseException | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int, /) -> Buffer:
        self.told("read", offset, length)
        return memoryview(self.content)[offset : offset + length]

    def write(self, offset: int, data: bytes, /, *, durable: bool) -> None:
        self.told("write", offset, len(data), durable)
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.told("flush")

    def told(self, *call: Any) -> None:
        self.calls.append(call)
        if self.broken is not None:
            raise self.broken


class FullDevice(DictDevice):
    """The same with everything that is optional."""

    name = "the disk of a test"
    block_bytes = 4096
    read_only = False

    def zero(self, offset: int, length: int, /, *, unmap: bool, durable: bool) -> None:
        self.told("zero", offset, length, unmap, durable)
        self.content[offset : offset + length] = bytes(length)

    def discard(self, offset: int, length: int, /) -> str:
        self.told("discard", offset, length)
        self.content[offset : offset + length] = bytes(length)
        return "zeroes"


class DictStore:
    """Objects in a dict. `broken` is raised by every call while it is set."""

    name = "the store of a test"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.broken: BaseException | None = None

    def put_if_absent(self, name: str, data: bytes, /) -> bool:
        self.told()
        with self.lock:
            absent = name not in self.objects
            self.objects.setdefault(name, data)
            return absent

    def get(self, name: str, offset: int, length: int, /) -> Buffer:
        self.told()
        return self.objects[name][offset : offset + length]

    def list(self, prefix: str, /) -> Iterable[tuple[str, int]]:
        self.told()
        return [(name, len(data)) for name, data in self.objects.copy().items() if name.startswith(prefix)]

    def head(self, name: str, /) -> int | None:
        self.told()
        data = self.objects.get(name)
        return None if data is None else len(data)

    def delete(self, name: str, /) -> None:
        self.told()
        self.objects.pop(name, None)

    def told(self) -> None:
        if self.broken is not None:
            raise self.broken
