"""Reads what a dirty bitmap marks from an NBD export into a sparse file, with libnbd's Python module.

`python3 bitmap_reader.py URI BITMAP FILE` prints the bytes read. 32 requests are in flight, neighbours are read
together up to 1 MiB, and the file is durable at the end.
"""

import os
import sys

import nbd  # type: ignore[import-not-found]

IN_FLIGHT_MAX = 32
REQUEST_BYTES_MAX = 1 << 20
STATUS_BYTES_MAX = 1 << 30


def marked(handle: "nbd.NBD", context: str) -> list[tuple[int, int]]:
    """Offset and length of each stretch that is marked."""
    size, found, offset = handle.get_size(), [], 0
    while offset < size:
        entries: list[int] = []

        def extent(name: str, _offset: int, extents: list[int], _error: object, entries: list[int] = entries) -> int:
            if name == context:
                entries.extend(extents)
            return 0

        handle.block_status(min(STATUS_BYTES_MAX, size - offset), offset, extent)
        for length, flags in zip(entries[::2], entries[1::2], strict=True):
            if flags & 1:
                found.append((offset, length))
            offset += length
    return found


def main() -> None:
    """Copies."""
    uri, bitmap, path = sys.argv[1:]
    context = f"qemu:dirty-bitmap:{bitmap}"
    handle = nbd.NBD()
    handle.add_meta_context(context)
    handle.connect_uri(uri)
    target = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    os.ftruncate(target, handle.get_size())
    pieces = [
        (start, min(REQUEST_BYTES_MAX, offset + length - start))
        for offset, length in marked(handle, context)
        for start in range(offset, offset + length, REQUEST_BYTES_MAX)
    ]
    for offset, length in pieces:
        buffer = nbd.Buffer(length)

        def done(error: object, buffer: "nbd.Buffer" = buffer, offset: int = offset) -> int:
            if error.value:  # type: ignore[attr-defined]
                raise OSError(error.value, os.strerror(error.value))  # type: ignore[attr-defined]
            os.pwrite(target, buffer.to_bytearray(), offset)
            return 1

        while handle.aio_in_flight() >= IN_FLIGHT_MAX:
            handle.poll(-1)
        handle.aio_pread(buffer, offset, done)
    while handle.aio_in_flight():
        handle.poll(-1)
    os.fsync(target)
    print(sum(length for _, length in pieces))


main()
