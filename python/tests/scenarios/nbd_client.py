"""A small NBD client (newstyle fixed, one request at a time), for writes that are acknowledged one after the other."""

import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

OPTION_MAGIC = 0x49484156454F5054
REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
OPT_GO, REP_ACK = 7, 1
READ, WRITE, DISCONNECT = 0, 1, 2
LIMIT = 30


class NbdClient:
    """A connection to the export of a URI, `nbd://HOST:PORT/NAME` or `nbd+unix:///NAME?socket=PATH`."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._socket = socket.socket(socket.AF_UNIX if parts.scheme == "nbd+unix" else socket.AF_INET)
        self._socket.settimeout(LIMIT)
        if parts.scheme == "nbd+unix":
            self._socket.connect(parse_qs(parts.query)["socket"][0])
        else:
            self._socket.connect((parts.hostname, parts.port or 10809))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert self._take(16) == b"NBDMAGICIHAVEOPT"
        self._take(2)
        name = unquote(parts.path.lstrip("/")).encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        # Fixed newstyle, without the zeroes.
        self._socket.sendall(struct.pack(">IQII", 3, OPTION_MAGIC, OPT_GO, len(data)) + data)
        kind = 0
        while kind != REP_ACK:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            assert magic == REPLY_MAGIC and kind < 1 << 31, f"reply {kind:#x}"
            self._take(length)

    def read(self, offset: int, length: int) -> bytes:
        self._ask(READ, offset, length)
        return self._take(length)

    def write(self, offset: int, data: bytes) -> None:
        """Returns once the write is acknowledged."""
        self._ask(WRITE, offset, len(data), data)

    def _ask(self, command: int, offset: int, length: int, data: bytes = b"") -> None:
        self._socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, 1, offset, length) + data)
        magic, error, cookie = struct.unpack(">IIQ", self._take(16))
        assert (magic, error, cookie) == (SIMPLE_REPLY_MAGIC, 0, 1), error

    def _take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._socket.recv(length - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
