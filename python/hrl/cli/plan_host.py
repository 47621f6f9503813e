"""The host of plans that `hrl plan` uses: `hrl failover` starts each volume as a process of its own.

A process that serves a volume outlives the runner. The command that starts it inherits a lock on a file in the state
directory, so a runner that resumes a run waits for a start that is under way. Then it asks the process of the state
directory what it serves, and starts nothing twice. A process that another run started, or no run, is left alone and
reported.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrl import HrlError, NotFoundError, PlanMember, PlanRequest, VolumeStarted
from hrl.cli.control import ask
from hrl.cli.exits import Exit, Refused
from hrl.cli.rights import private_directory
from hrl.cli.secrets_taken import passed_on
from hrl.errors import BY_KIND

POLL_SECONDS = 0.05
COMMIT_SECONDS_MAX = 600.0
OUTPUT_BYTES_MAX = 64 << 10
SERVED = {"uri", "point", "sequence", "time"}


@dataclass
class FailoverCommands:
    """Starts, commits and cleans up volumes with `hrl failover`. `options` are those of the vault's key."""

    vault: str
    options: list[str] = field(default_factory=list)
    insecure: bool = False

    def start(self, member: PlanMember, request: PlanRequest) -> VolumeStarted:
        """Starts the process of a volume, or finds the one that this run started."""
        state = state_of(member, request)
        private_directory(state)
        mark = mark_of(state, request)
        is_ours = mark.exists()
        until = time.monotonic() + request.limit
        with lock(mark, member, request, until) as held:
            found = served(state)
            if found is not None and not is_ours:
                mark.unlink()
                problem = f"a process serves from {state}, and this run did not start it"
                raise refused("start", member, problem, "already-exists")
            if found is None:
                answer = self._run(self.start_command(member, request, state), member, request, until, held)
                found = answer_of(answer)
        if found is None:
            raise refused("start", member, "hrl failover printed nothing about the volume", "corrupt")
        return {
            "uri": str(found["uri"]),
            "point": str(found["point"]) if found["point"] else None,
            "sequence": int(found["sequence"]),
            "point_time": str(found["time"]),
        }

    def commit(self, member: PlanMember, request: PlanRequest) -> None:
        """Commits the failover of a volume."""
        command = ["commit", self.vault, member.volume, "--state", str(state_of(member, request))]
        self._run(command, member, request, time.monotonic() + COMMIT_SECONDS_MAX)

    def clean_up(self, member: PlanMember, request: PlanRequest) -> None:
        """Ends a test failover, and removes what this run made in its directory."""
        state = state_of(member, request)
        mark = mark_of(state, request)
        if not mark.exists():
            return
        until = time.monotonic() + COMMIT_SECONDS_MAX
        with lock(mark, member, request, until):
            command = ["cleanup", self.vault, member.volume, "--name", request.run, "--state", str(state), *self.options]
            # Without the test nothing was begun, or it was ended before its runner could record that.
            with contextlib.suppress(NotFoundError):
                self._run(command, member, request, until)
            for own in ("log", "boot.log", mark.name):
                (state / own).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            state.rmdir()

    def start_command(self, member: PlanMember, request: PlanRequest, state: Path) -> list[str]:
        """Returns the arguments of `hrl failover` that start a volume."""
        common = ["--state", str(state), "--at", request.at, "--detach", "--json", *self.options]
        common += ["--nbd", request.nbd] if request.nbd else []
        common += ["--insecure"] if self.insecure else []
        if request.mode == "test":
            return ["test", self.vault, member.volume, "--name", request.run, *common]
        disk = member.disk or state / "disk.img"
        planned = ["--planned"] if request.planned else []
        return ["start", self.vault, member.volume, "--disk", str(disk), *common, *planned]

    def _run(
        self, arguments: list[str], member: PlanMember, request: PlanRequest, until: float, held: int | None = None
    ) -> bytes:
        """Runs a command of `hrl failover` in a session of its own, until it ends or must. Returns what it printed."""
        given, inherited = passed_on(arguments)
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "hrl", "failover", *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=inherited if held is None else (held, *inherited),
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            streams = (process.stdout, process.stderr)
            for stream in streams:
                os.set_blocking(stream.fileno(), False)
            printed = [b"", b""]
            ended = False
            while not ended:
                ended = process.poll() is not None
                printed = [
                    (text + (stream.read() or b""))[-OUTPUT_BYTES_MAX:]
                    for text, stream in zip(printed, streams, strict=True)
                ]
                if not ended and (request.stopped or time.monotonic() >= until):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise refused(arguments[0], member, "it was stopped" if request.stopped else "it took too long")
                time.sleep(0 if ended else POLL_SECONDS)
        if process.returncode != 0:
            said = printed[1].decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
            raise refused(arguments[0], member, said[-1].removeprefix("hrl: "), kind_of(process.returncode))
        return printed[0]


def kind_of(code: int) -> str:
    """Returns the kind of error that an exit code stands for; a time-out is one to try again."""
    if code == Exit.TIMED_OUT:
        return "unavailable"
    found = Exit.of_code(code)
    return found.kind if found in (*range(Exit.INVALID_INPUT, Exit.NOT_RUNNING), Exit.DENIED, Exit.DIVERGED) else "io"


def state_of(member: PlanMember, request: PlanRequest) -> Path:
    """Returns the directory of a failover, which `hrl failover` needs."""
    if request.state is None:
        raise refused("start", member, "the plan names no state directory for it", "invalid-input")
    return request.state


def mark_of(state: Path, request: PlanRequest) -> Path:
    """Returns the file that says that a run uses the directory, and that is its lock."""
    return state / f"plan-{request.run}"


def refused(operation: str, member: PlanMember, problem: str, kind: str = "unavailable") -> HrlError:
    """Makes an error about a volume."""
    return BY_KIND.get(kind, HrlError)(problem, kind=kind, operation=operation, object=member.volume)


@contextlib.contextmanager
def lock(path: Path, member: PlanMember, request: PlanRequest, until: float) -> Iterator[int]:
    """Holds a lock that a started command inherits, so that the lock lasts as long as the command."""
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if request.stopped or time.monotonic() >= until:
                    raise refused("start", member, f"a start that is under way holds {path}") from None
                time.sleep(POLL_SECONDS)
        yield held
    finally:
        os.close(held)


def served(state: Path) -> dict[str, Any] | None:
    """Returns what the process of a state directory serves; `None` if there is none."""
    try:
        found = ask(state, "status")
    except Refused:
        return None
    return found if isinstance(found, dict) and found.keys() >= SERVED else None


def answer_of(printed: bytes) -> dict[str, Any] | None:
    """Returns the line of JSON that a start printed; `None` if it is none."""
    try:
        found = json.loads(printed)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= SERVED else None
