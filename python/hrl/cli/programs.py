"""Programs that checks of points run: for a limited time, never left behind, and with the end of their output.

Each program has a session of its own. So Ctrl-C at the terminal reaches this process alone, which then takes everything
down in order. Signals are held back while something is set up or taken down; they end the command only while it waits
(`interruptible`).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Self

from hrl.cli.exits import Exit, Refused
from hrl.cli.signals import ENDING, heeded

OUTPUT_BYTES_MAX = 8 << 10
# A program that ended may have left something that holds its pipe; it is not waited for longer.
DRAIN_SECONDS = 2.0


class HeldSignals:
    """Holds back the signals that end the command until it is `interruptible`, or has left the block."""

    def __init__(self) -> None:
        self._arrived = False
        self._waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._arrive) for number in heeded(ENDING)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._arrived and kind is None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets a signal raise `KeyboardInterrupt` while the block runs."""
        self._waiting = True
        try:
            if self._arrived:
                raise KeyboardInterrupt
            yield
        finally:
            self._waiting = False

    def _arrive(self, _number: int, _frame: FrameType | None) -> None:
        self._arrived = True
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code (None: the time was over) and the end of what it printed.

    `errors` is the end of its standard error if that was asked for apart; otherwise `output` has both.
    """

    code: int | None
    output: str
    errors: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0

    def tail(self, lines: int) -> str:
        """Returns the last lines as one."""
        return " / ".join([line.strip() for line in self.output.splitlines() if line.strip()][-lines:])


def run(
    command: list[str],
    signals: HeldSignals,
    *,
    limit: float | None = None,
    env: dict[str, str] | None = None,
    errors_apart: bool = False,
) -> Ended:
    """Runs a program to its end, or until the limit in seconds. Then kills its whole session."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if errors_apart else subprocess.STDOUT,
        start_new_session=True,
        env=environment() | (env or {}),
    )
    tails = [(pipe, bytearray()) for pipe in (process.stdout, process.stderr) if pipe is not None]
    readers = [threading.Thread(target=keep_tail, args=one, daemon=True) for one in tails]
    for reader in readers:
        reader.start()
    code = None
    try:
        with signals.interruptible():
            code = process.wait(limit)
    except subprocess.TimeoutExpired:
        pass
    finally:
        kill_session(process)
        for reader in readers:
            reader.join(DRAIN_SECONDS)
    return Ended(code, *(tail.decode(errors="replace") for _, tail in tails))


def keep_tail(pipe: IO[bytes], tail: bytearray) -> None:
    """Reads a pipe to its end and keeps the last bytes."""
    while chunk := os.read(pipe.fileno(), 1 << 16):
        tail += chunk
        del tail[:-OUTPUT_BYTES_MAX]


def kill_session(process: subprocess.Popen[Any]) -> None:
    """Kills a program and all that it started in its session, and waits for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment() -> dict[str, str]:
    """Returns the environment of programs: in English, and with the directories in which Debian keeps file-system tools."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return dict(os.environ) | {"LC_ALL": "C.UTF-8", "PATH": path}


def need(what: str, *programs: str) -> None:
    """Refuses if a program is missing."""
    missing = [program for program in programs if shutil.which(program, path=environment()["PATH"]) is None]
    if missing:
        raise Refused(f"{what} needs {', '.join(missing)}, which is not installed", Exit.UNSUPPORTED)
