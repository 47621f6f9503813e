"""Paths of UNIX sockets, which the system limits to 107 bytes.

A socket whose own path is longer, or is not UTF-8, lies in the runtime directory of its user, under a name that the path
gives, and a link to it lies at the path. What is printed is the path that programs can connect to.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hrl import NbdServer
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import note

PATH_BYTES_MAX = 107
SOCKET = "nbd.sock"


def address_of(nbd: str | None, state: Path) -> str:
    """Returns the address at which a volume is served: the one that is asked for, or a socket in the state directory."""
    return nbd or f"unix:{socket_in(state, SOCKET)}"


def socket_in(directory: Path, name: str) -> Path:
    """Returns the path of a socket that belongs into a directory."""
    path = directory / name
    if fits(path):
        return path
    known = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    found = runtime_directory() / f"{known}-{name}"
    if not fits(found):
        raise Refused(f"the path of the socket {path} is too long, and so is {found}", Exit.INVALID_INPUT)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.symlink_to(found)
    note(f"note: {path} is too long for the path of a socket, so the socket is {found}")
    return found


def tell_engine(server: NbdServer) -> None:
    """Says that a server has no io_uring, which makes it slower."""
    if server.engine == "threads":
        note("note: NBD runs on threads, because the system denies io_uring, as containers do by default; it is slower")


def fits(path: Path) -> bool:
    """Reports whether a path can be that of a socket, and part of an address."""
    try:
        return len(str(path).encode()) <= PATH_BYTES_MAX
    except UnicodeEncodeError:
        return False


def runtime_directory() -> Path:
    """Returns a directory with a short path that belongs to this user alone."""
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    made = Path(base) / f"hrl-{os.geteuid()}"
    made.mkdir(mode=0o700, exist_ok=True)
    found = made.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Refused(f"{made} is not a directory that this user alone can write", Exit.INVALID_INPUT)
    return made


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yields a path by which this process binds or reaches a socket, however long its own is."""
    if fits(path):
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
