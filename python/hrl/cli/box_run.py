"""Runs a command in a box that reaches the disk of `HRL_URI` and nothing else, as `hrl plan` runs the `verify` of plans.

Called as `python -m hrl.cli.box_run [--show PATH]... -- COMMAND [ARGUMENT]...`. A relay connects the box with the server,
so that neither the server nor its socket changes.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hrl.cli.box import SOCKET, Bind, Box
from hrl.cli.exits import Exit, Refused
from hrl.cli.served_point import own

PORT = 10809
CHUNK_BYTES = 1 << 16


def main(arguments: list[str]) -> int:
    """Runs the command. Returns its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.STOPPED))
    show = []
    while arguments[:1] == ["--show"]:
        show.append(Path(arguments[1]))
        arguments = arguments[2:]
    variables = {name: value for name, value in os.environ.items() if name.startswith("HRL_")}
    try:
        box = Box(tuple(show))
        with relay(variables.get("HRL_URI", "")) as found:
            binds = []
            if found is not None:
                binds, variables["HRL_URI"] = [Bind(found[0], SOCKET, "--bind")], found[1]
            return subprocess.run(box.command(arguments[1:], binds, variables), stdin=subprocess.DEVNULL).returncode
    except Refused as refused:
        print(f"hrl: {refused}", file=sys.stderr)
        return int(refused.code)


@contextlib.contextmanager
def relay(uri: str) -> Iterator[tuple[Path, str] | None]:
    """Yields a socket that leads to a server, and the URI by which the box reaches it; `None` for anything but NBD."""
    parts = urlsplit(uri)
    if parts.scheme.startswith("nbds"):
        raise Refused(f"a check in a box cannot use TLS to reach {uri}: give --unsandboxed", Exit.UNSUPPORTED)
    if parts.scheme not in ("nbd", "nbd+unix"):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hrl-check-") as home, socket.socket(socket.AF_UNIX) as listener:
        path = Path(home) / "s"
        listener.bind(str(path))
        own(path)
        listener.listen()
        threading.Thread(target=accept, args=(listener, uri), daemon=True).start()
        yield path, f"nbd+unix://{parts.path}?socket={SOCKET}"


def accept(listener: socket.socket, uri: str) -> None:
    """Connects each client with the server."""
    while True:
        try:
            client, _ = listener.accept()
            server = connected(uri)
        except OSError:
            return
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=copy, args=(one, other), daemon=True).start()


def connected(uri: str) -> socket.socket:
    """Connects to the server of a URI."""
    parts = urlsplit(uri)
    if parts.scheme == "nbd":
        return socket.create_connection((parts.hostname or "localhost", parts.port or PORT))
    server = socket.socket(socket.AF_UNIX)
    server.connect(parse_qs(parts.query)["socket"][0])
    return server


def copy(one: socket.socket, other: socket.socket) -> None:
    """Copies what one side sends until it ends."""
    with contextlib.suppress(OSError):
        while chunk := one.recv(CHUNK_BYTES):
            other.sendall(chunk)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
