"""NBD servers, ours and others', each as a process that serves one disk on a UNIX socket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peers.machine import REPOSITORY, BenchError, clear, end, run, start

Content = Literal["data", "extents-only"]


class Agent:
    """`agent.py` as a process. `home` has vault and state."""

    def __init__(
        self, disk: Path, home: Path, content: Content | None, *, direct: bool = True, policy: dict[str, str] | None = None
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        settings = {
            "disk": str(disk),
            "home": str(home),
            "content": content,
            "direct": direct,
            "socket": str(home / "nbd.sock"),
            "policy": policy or {},
        }
        clear(home / "nbd.sock")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peers.agent", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY / "benches",
        )
        self.content = content
        self.vault = home / "vault"
        self.uri = str(self._answer())
        if content is not None:
            self.ask("replicated")

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"the agent ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, request: str) -> Any:
        """The answer to a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        """A clean end."""
        with suppress(BrokenPipeError):
            self.process.communicate("stop\n" if self.content else None, timeout=600)


@contextmanager
def ours(
    disk: Path, home: Path, content: Content | None, *, direct: bool = True, policy: dict[str, str] | None = None
) -> Iterator[Agent]:
    """Our server, in order and with everything replicated when the block begins."""
    agent = Agent(disk, home, content, direct=direct, policy=policy)
    try:
        yield agent
    finally:
        agent.stop()


@dataclass(frozen=True)
class Server:
    """Somebody else's server: where it is, and its process."""

    uri: str
    process: int

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.process, signal.SIGKILL)


@contextmanager
def served(uri: str, *command: str | Path, socket: Path) -> Iterator[Server]:
    """A server that stays in the foreground."""
    process = start(*command, ready=socket)
    try:
        yield Server(uri, process.pid)
    finally:
        end(process)


def nbdkit(disk: Path, home: Path) -> AbstractContextManager[Server]:
    """nbdkit's file plugin, through the page cache."""
    socket = home / "nbdkit.sock"
    return served(f"nbd+unix:///?socket={socket}", "nbdkit", "-f", "-U", socket, "file", disk, socket=socket)


def qemu_nbd(
    disk: Path, home: Path, format: str = "raw", *, read_only: bool = False, cached: bool = False
) -> AbstractContextManager[Server]:
    """qemu-nbd on the disk directly, by io_uring, or through the page cache. A dirty bitmap in a qcow2 file is kept up to
    date while it serves."""
    socket = home / "qemu-nbd.sock"
    cache = ["--cache=writeback"] if cached else ["--cache=none", "--aio=io_uring"]
    how = ["--persistent", *cache, "--discard=unmap", *(["--read-only"] if read_only else [])]
    return served(f"nbd+unix:///?socket={socket}", "qemu-nbd", *how, "-f", format, "-k", socket, disk, socket=socket)


@contextmanager
def nbd_server(disk: Path, home: Path, *, log: Path | None = None) -> Iterator[Server]:
    """nbd-server through the page cache; with `log`, its journal of every request with its data."""
    socket, configuration, number = home / "nbd-server.sock", home / "nbd-server.conf", home / "nbd-server.pid"
    clear(socket, number)
    journal = f"transactionlog={log}\ndatalog=true\n" if log else ""
    configuration.write_text(f"[generic]\nunixsock={socket}\n[disk]\nexportname={disk}\nflush=true\nfua=true\n{journal}")
    run("nbd-server", "-C", configuration, "-p", number)
    until = time.monotonic() + 10
    while not (socket.exists() and number.exists() and number.read_text().strip()):
        if time.monotonic() > until:
            raise BenchError("nbd-server did not start")
        time.sleep(0.005)
    server = Server(f"nbd+unix:///disk?socket={socket}", int(number.read_text()))
    try:
        yield server
    finally:
        stop_detached(server.process)


def stop_detached(process: int) -> None:
    """Ends a program that is not our child, and waits for that."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    state = Path(f"/proc/{process}/stat")
    while state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.005)
