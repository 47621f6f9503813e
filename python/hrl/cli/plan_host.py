"""The host of plans that `hrl plan` uses: each volume is brought up by `hrl failover` as a process of its own.

What serves a volume outlives the runner. The command that starts it holds a lock, a file in the state directory, and its
answer goes to a file beside it; so a runner that resumes a run waits for a start that is under way, and finds the volume of
one that went well, and starts nothing twice.
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

from hrl import HrlError, PlanMember, PlanRequest, VolumeStarted
from hrl.cli.base import EXIT_CODES

POLL_SECONDS = 0.05
COMMIT_SECONDS_MAX = 600.0
ERROR_BYTES_MAX = 4 << 10


@dataclass
class FailoverCommands:
    """Brings volumes up, commits and takes them down with `hrl failover`. `options` are those of the vault and its key."""

    vault: str
    options: list[str] = field(default_factory=list)

    def start(self, member: PlanMember, request: PlanRequest) -> VolumeStarted:
        """Starts the process of a volume, or finds the one that this run started."""
        state = state_of(member, request)
        state.mkdir(parents=True, exist_ok=True)
        answer = state / f"plan-{request.run}.json"
        until = time.monotonic() + request.limit
        with lock(state / f"plan-{request.run}.lock", request, until) as held:
            found = answer_of(answer)
            if found is None or not is_alive(int(found["pid"])):
                answer.unlink(missing_ok=True)
                self._run(self.start_command(member, request, state), member, request, until, answer, held)
                found = answer_of(answer)
        if found is None:
            raise refused("start", member, "hrl failover told nothing of the volume", "corrupt")
        point = found.get("point")
        return {
            "uri": str(found["uri"]),
            "point": str(point) if point else None,
            "sequence": int(found["sequence"]),
            "point_time": str(found["time"]),
        }

    def commit(self, member: PlanMember, request: PlanRequest) -> None:
        """Commits the failover of a volume."""
        command = ["commit", self.vault, member.volume, "--state", str(state_of(member, request))]
        self._run(command, member, request, time.monotonic() + COMMIT_SECONDS_MAX)

    def clean_up(self, member: PlanMember, request: PlanRequest) -> None:
        """Ends a test failover."""
        state = state_of(member, request)
        if not state.exists():
            return
        with lock(state / f"plan-{request.run}.lock", request, time.monotonic() + request.limit):
            command = ["cleanup", self.vault, member.volume, "--name", request.run, "--state", str(state)]
            self._run(command, member, request, time.monotonic() + COMMIT_SECONDS_MAX)
            for own in (f"plan-{request.run}.json", f"plan-{request.run}.lock", "boot.log"):
                (state / own).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            state.rmdir()

    def start_command(self, member: PlanMember, request: PlanRequest, state: Path) -> list[str]:
        """The arguments of `hrl failover` that bring a volume up."""
        nbd = request.nbd or f"unix:{state / 'nbd.sock'}"
        common = ["--state", str(state), "--nbd", nbd, "--at", request.at, "--detach"]
        if request.mode == "test":
            return ["test", self.vault, member.volume, "--name", request.run, *common]
        disk = member.disk or state / "disk.img"
        planned = ["--planned"] if request.planned else []
        return ["start", self.vault, member.volume, "--disk", str(disk), *common, *planned]

    def _run(
        self,
        arguments: list[str],
        member: PlanMember,
        request: PlanRequest,
        until: float,
        answer: Path | None = None,
        held: int | None = None,
    ) -> None:
        """Runs a command of `hrl failover` in a session of its own, and ends it when it has to end."""
        command = [sys.executable, "-P", "-m", "hrl", "failover", *arguments, *self.options]
        with (
            open(answer or os.devnull, "wb") as out,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=() if held is None else (held,),
            ) as process,
        ):
            assert process.stderr is not None
            os.set_blocking(process.stderr.fileno(), False)
            said = b""
            while process.poll() is None:
                said = (said + (process.stderr.read() or b""))[-ERROR_BYTES_MAX:]
                if request.stopped or time.monotonic() >= until:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise refused(arguments[0], member, "it was stopped" if request.stopped else "it took too long")
                time.sleep(POLL_SECONDS)
            said = (said + (process.stderr.read() or b""))[-ERROR_BYTES_MAX:]
        if process.returncode != 0:
            kinds = {code: kind for kind, code in EXIT_CODES.items()}
            text = said.decode(errors="replace").strip()
            problem = text.splitlines()[-1].removeprefix("hrl: ") if text else f"exit code {process.returncode}"
            raise refused(arguments[0], member, problem, kinds.get(process.returncode, "io"))


def state_of(member: PlanMember, request: PlanRequest) -> Path:
    """The directory of a failover, which `hrl failover` needs."""
    if request.state is None:
        raise refused("start", member, "the plan names no state directory for it", "invalid-input")
    return request.state


def refused(operation: str, member: PlanMember, problem: str, kind: str = "unavailable") -> HrlError:
    """An error about a volume."""
    message = f"cannot {operation} {member.volume}: {problem}"
    return HrlError(message, kind=kind, operation=operation, object=member.volume)


@contextlib.contextmanager
def lock(path: Path, request: PlanRequest, until: float) -> Iterator[int]:
    """Holds a lock that the command which is started inherits, so that it lasts as long as that runs."""
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if request.stopped or time.monotonic() >= until:
                    raise
                time.sleep(POLL_SECONDS)
        yield held
    finally:
        os.close(held)


def answer_of(path: Path) -> dict[str, Any] | None:
    """What a start told of its volume; None when it told nothing, or not all."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"uri", "sequence", "time", "pid"} <= found.keys() else None


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False
