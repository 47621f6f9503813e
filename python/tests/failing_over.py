"""What the tests of failovers share: volumes served by commands in the background, and what is on them."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hrl.cli import main

LIMIT_SECONDS = 60.0
# A source asks at this pace whether it was failed over; nothing waits long in a test.
PROMPT = "failover_poll_interval_ms = 100\nretry_interval_max_ms = 200\nregion_bytes = 65536\n"


def call(*arguments: object, code: int = 0) -> str:
    """Runs the command in this process, which is quicker; its standard output, or standard error on a failure."""
    printed, problem = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
    argv = sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    sys.argv = ["hrl", *map(str, arguments)]
    found: object = None
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(problem):
            main()
    except SystemExit as ended:
        found = ended.code
    finally:
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    printed.seek(0)
    text = printed.read()
    assert found == code, f"hrl {arguments}: exit code {found}, {code} expected\n{text}{problem.getvalue()}"
    return problem.getvalue() if code else text


def call_json(*arguments: object) -> Any:
    """The JSON that a command printed."""
    return json.loads(call(*arguments))


def is_running(process: int) -> bool:
    """A process is there that is no zombie. Its first thread may be one while others still have its sockets open."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{process}/task")) > 1
    except OSError:
        return False


def until(what: str, true: Callable[[], object], limit: float = LIMIT_SECONDS) -> None:
    """Waits until something is so."""
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, f"{what}: not within {limit:.0f} s"
        time.sleep(0.02)


class Served:
    """A volume that `hrl failover` or `hrl failback` serves in the background."""

    def __init__(self, *arguments: object, state: Path) -> None:
        self._take(call_json(*arguments, "--state", state, "--detach", "--json"), state)

    @classmethod
    def known(cls, ready: dict[str, Any], state: Path) -> "Served":
        """One that was begun before, by what its command printed."""
        made = cls.__new__(cls)
        made._take(ready, state)
        return made

    def _take(self, ready: dict[str, Any], state: Path) -> None:
        self.state = state
        self.ready = ready
        self.uri: str = ready["uri"]
        self.process: int = ready["pid"]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = call_json("status", self.state, "--json")
        return found

    def wait_whole(self) -> None:
        until("a whole disk", lambda: self.status()["whole"])

    def wait_replicated(self) -> None:
        def done() -> bool:
            found = self.status()
            return bool(found["replicated_sequence"] == found["last_sequence"] and found["mode"] == "ordered")

        until("everything in the vault", done)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends its process and waits for that."""
        if is_running(self.process):
            os.kill(self.process, number)
        until("the end of the process", lambda: not is_running(self.process))

    def kill(self) -> None:
        self.end(signal.SIGKILL)


def write(uri: str, offset: int, data: bytes, scratch: Path) -> None:
    """Writes through an NBD export, flushed."""
    source = scratch / "to-write"
    source.write_bytes(data)
    # qemu-io has no argument separator: paths with blanks would break it, and pytest's have none.
    request = f"write -s {source} {offset} {len(data)}"
    command = ["qemu-io", "-f", "raw", "-c", request, "-c", "flush", uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    # Its exit code is 0 when the write failed, too.
    assert "wrote" in done.stdout, done.stdout + done.stderr


def content(uri: str, scratch: Path) -> bytes:
    """All that an NBD export holds."""
    copy = scratch / "read"
    copy.unlink(missing_ok=True)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr
    return copy.read_bytes()
