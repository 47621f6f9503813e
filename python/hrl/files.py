"""A device or view as a Python file, for programs that read files: hashing, `tarfile`, file-system parsers."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from hrl._hrl import Device

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNK_BYTES_MAX = 8 << 20
"""Most bytes that one read takes from the device. A longer read returns fewer bytes, as raw files may."""


class ViewFile(io.RawIOBase):
    """A read-only raw file over a view or any other device. Closing the file leaves the device open.

    Wrap it in `io.BufferedReader` for small reads. One thread at a time may use it.
    """

    def __init__(self, view: Device) -> None:
        super().__init__()
        self._view = view
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._refuse_closed()
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._view.size_bytes}
        if whence not in starts:
            raise ValueError(f"whence {whence} is none of 0, 1 and 2")
        position = starts[whence] + offset
        if position < 0:
            raise ValueError(f"position {position} is before the start")
        self._position = position
        return position

    def tell(self) -> int:
        self._refuse_closed()
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        self._refuse_closed()
        with memoryview(buffer) as whole, whole.cast("B") as target, target[:CHUNK_BYTES_MAX] as part:
            length = self._view.readinto(self._position, part)
        self._position += length
        return length

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")
