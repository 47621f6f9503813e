"""Commands of failover: hrl failover start, test, status, change-point, commit, cancel, abandon, detach; hrl migrate."""

import contextlib
import fcntl
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import FailedOver, HrlError, NbdServer, Vault, abandon_failover, cancel_failover
from hrl.cli.background import Detach, print_ready, run_detached, sentence_about
from hrl.cli.commands import command, group
from hrl.cli.control import SOCKET, ControlServer, ask
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.exits import Exit, Refused
from hrl.cli.memory import forget
from hrl.cli.options import (
    At,
    Insecure,
    Json,
    KeyFile,
    Limit,
    Nbd,
    NbdTls,
    NbdTlsAnyone,
    PolicyFile,
    VaultUrl,
    Volume,
    duration_of,
    open_vault,
    tls_options,
)
from hrl.cli.output import Table, fields, print_json, print_raw, say
from hrl.cli.policy import policy_of, read_events, read_policy, seconds_of
from hrl.cli.programs import need
from hrl.cli.protect import print_event
from hrl.cli.reading_options import DEFAULT, Reading
from hrl.cli.rights import private_directory, private_file
from hrl.cli.signals import Ending, ended_by_signals, on_signals
from hrl.cli.sockets import address_of, tell_engine
from hrl.cli.states import NEWEST, NEWEST_GOOD, state_of
from hrl.cli.targets import checked, published
from hrl.cli.times import Duration
from hrl.cli.volumes import EachVolume
from hrl.health import RPO_SECONDS
from hrl.words import human, local, short

failover = group("failover", "Failover: a volume goes on elsewhere, as of a point; in earnest or as a test.")

State = Annotated[Path, typer.Option("--state", metavar="DIR", help="State directory of this failover.")]
Disk = Annotated[
    Path,
    typer.Option("--disk", metavar="FILE", help="New sparse file, or a block device whose content is lost (--overwrite)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="The disk exists, and its content may be lost.")]
POLL_SECONDS = 0.2
CHANGE_SECONDS_MAX = 25
END_SECONDS_MAX = 60
DAY = Duration("1d")
LIMIT = Duration("2m")


class Disks:
    """The file or device that a volume fails over to."""

    def __init__(self, path: Path, state: Path, size_bytes: int) -> None:
        self.path = path
        self._state = state
        self._size_bytes = size_bytes
        self._is_made = False

    @property
    def is_begun(self) -> bool:
        """Reports whether a failover to it is under way, or was committed and is not whole yet."""
        return any((self._state / name).exists() for name in ("failover", "presence"))

    def prepare(self, *, overwrite: bool) -> bool:
        """Makes the disk. Returns whether it reads as zeroes."""
        if self.is_begun:
            return False
        if self.path.is_block_device():
            if not overwrite:
                raise Refused(
                    f"{self.path} is a block device: its content would be lost (--overwrite allows that)",
                    Exit.ALREADY_EXISTS,
                )
            return False
        # A file without content may be taken without a word: it is what truncate(1) makes.
        checked(self.path, overwrite=overwrite or (self.path.is_file() and not self.path.stat().st_blocks))
        self._is_made = not self.path.exists()
        private_directory(self.path.parent)
        with private_file(self.path, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Refused(f"{self.path} is in use by another process", Exit.FENCED) from None
            file.truncate(0)
            file.truncate(self._size_bytes)
        return True

    @contextlib.contextmanager
    def left_alone(self) -> Iterator[None]:
        """Removes the file that was made if the block's failover is refused."""
        try:
            yield
        except HrlError:
            if self._is_made and not self.is_begun:
                self.path.unlink(missing_ok=True)
            raise


@failover.command()
def start(
    vault: VaultUrl,
    volume: Volume,
    state: State,
    disk: Disk,
    nbd: Nbd = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    insecure: Insecure = False,
    at: At = "newest-good",
    planned: Annotated[
        bool, typer.Option("--planned", help="Ask the source to hand over what is left first: nothing is lost.")
    ] = False,
    limit: Annotated[Duration, duration_of("--limit", "Wait so long for the source.")] = LIMIT,
    commit: Annotated[bool, typer.Option("--commit", help="Make it final at once.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    overwrite: Overwrite = False,
    policy: PolicyFile = None,
    reading: Reading = DEFAULT,
    key_file: KeyFile = None,
    detach: Detach = False,
    json: Json = False,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Serves a volume writable over NBD at once, as of a point or time. The disk fills in the background.

    Nothing is final before `hrl failover commit`. Started again with the same directory, it goes on where it was.
    """
    reader = reading.open(vault, key_file)
    opened, replica = reader.vault, reader.replica(volume)
    size_bytes = replica.info["size_bytes"]
    if detach and not dry_run:
        return run_detached(state)
    began = time.monotonic()
    # A planned failover goes on at what the source hands over.
    chosen = at if planned and at in (NEWEST, NEWEST_GOOD) else state_of(replica, at)
    if dry_run:
        return print_preview(opened, volume, chosen, limit if planned else None, disk, size_bytes, json=json)
    private_directory(state)
    disks = Disks(disk, state, size_bytes)
    is_zero = disks.prepare(overwrite=overwrite)
    values = read_policy(policy)
    session = Session(state, disk)
    with ExitStack() as stack:
        sinks = stack.enter_context(open_sinks(read_events(policy), events, print_event))
        address = address_of(nbd, state)
        change: str | None = None
        while True:
            with disks.left_alone(), policy_of(policy):
                over = FailedOver.start(
                    volume,
                    vault=opened,
                    state=state,
                    disk=disk,
                    at=change or chosen,
                    planned=limit if planned and change is None else None,
                    change_point=change is not None,
                    disk_reads_zero=is_zero,
                    policy=values,
                    on_event=sinks,
                )
            if commit:
                over.commit()
            threshold = seconds_of(values, "rpo_threshold", RPO_SECONDS)
            with NbdServer.failed_over(address, over, volume, **tls_options(nbd_tls, nbd_tls_anyone, insecure)) as server:
                tell_engine(server)
                ready = ready_of(volume, server.uri, fields(over.started), time.monotonic() - began)
                with session.control(over, ready, threshold):
                    if change is None:
                        print_ready(ready, json=json)
                    session.answer(ready)
                    session.wait()
            change = session.end(over)
            if change is None:
                return
            # It has data of the other state, and is not made anew: killed in between, its presence log would be believed.
            is_zero = False
            began = time.monotonic()


def ready_of(volume: str, uri: str, started: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Returns what is printed once a volume is usable."""
    return {
        "volume": volume,
        "uri": uri,
        "point": started["point"],
        "sequence": started["sequence"],
        "time": started["time"],
        "rto_ms": round(seconds * 1000, 1),
    }


class Session:
    """A served failover and how it ends: stopped, cancelled, detached, or continued as of another point."""

    def __init__(self, state: Path, disk: Path) -> None:
        self._state = state
        self._disk = disk
        self._ended = Ending()
        self._how = "stop"
        self._at: str | None = None
        self._ready: dict[str, Any] | None = None
        self._answered = threading.Condition()
        on_signals(lambda: self._finish("stop"))

    @contextlib.contextmanager
    def control(self, over: FailedOver, ready: dict[str, Any], rpo_threshold: float) -> Iterator[None]:
        """Answers the commands about the failover while the block runs."""

        def status(_: dict[str, Any]) -> dict[str, Any]:
            done, total, whole = over.hydration()
            return {
                **ready,
                "disk": str(self._disk),
                "size_bytes": over.volume.size_bytes,
                "rpo_threshold_seconds": rpo_threshold,
                "hydrated_bytes": done,
                "hydrate_bytes": total,
                "whole": whole,
                **fields(over.stats()),
            }

        handlers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "status": status,
            "commit": lambda _: over.commit(),
            "point": lambda request: fields(
                over.mark_app(request.get("label", "")) if request.get("app") else over.mark(request.get("label", ""))
            ),
            "cancel": lambda _: self._cancel(over),
            "detach": lambda _: self._detach(over),
            "change-point": lambda request: self._change(over, str(request["at"])),
            "stop": lambda _: self._finish("stop"),
        }
        control = ControlServer(self._state, handlers)
        try:
            yield
        finally:
            control.close()

    def wait(self) -> None:
        """Waits until the session is to end."""
        self._ended.wait()

    def answer(self, ready: dict[str, Any]) -> None:
        """Answers the request for another point: it is served."""
        with self._answered:
            self._ready = ready
            self._answered.notify_all()

    def end(self, over: FailedOver) -> str | None:
        """Ends the session as requested. Returns the state to continue with, if another one was requested."""
        self._ended.clear()
        how, self._how = self._how, "stop"
        if how == "change-point":
            over.stop()
            at, self._at = self._at, None
            return at
        {"cancel": over.cancel, "detach": over.detach, "stop": over.stop}[how]()
        return None

    def _finish(self, how: str) -> None:
        self._how = how
        self._ended.set()

    def _cancel(self, over: FailedOver) -> None:
        if not over.stats().provisional:
            raise Refused("cannot cancel: the failover was committed; fail over again to go back", Exit.INVALID_INPUT)
        self._finish("cancel")

    def _detach(self, over: FailedOver) -> None:
        if over.stats().provisional:
            raise Refused("cannot detach: the failover is not committed; commit or cancel it first", Exit.INVALID_INPUT)
        if not over.hydration()[2]:
            raise Refused("cannot detach: the disk is not whole yet", Exit.UNAVAILABLE)
        self._finish("detach")

    def _change(self, over: FailedOver, at: str) -> dict[str, Any]:
        if not over.stats().provisional:
            raise Refused("cannot change the point: the failover was committed", Exit.INVALID_INPUT)
        with self._answered:
            self._ready, self._at = None, at
            self._finish("change-point")
            self._answered.wait_for(lambda: self._ready is not None, timeout=CHANGE_SECONDS_MAX)
            if self._ready is None:
                raise Refused("the other point is not served yet; see hrl status", Exit.TIMED_OUT)
            return self._ready


class Sized:
    """A disk of which only the size is asked."""

    block_bytes = 512

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def read(self, offset: int, length: int, /) -> bytes:
        raise OSError("nothing is read in a preview")

    def write(self, offset: int, data: bytes, /, *, durable: bool) -> None:
        raise OSError("nothing is written in a preview")

    def flush(self) -> None:
        raise OSError("nothing is written in a preview")


def print_preview(
    vault: Vault, volume: str, at: str, planned: float | None, disk: Path, size_bytes: int, *, json: bool
) -> None:
    """Prints what `start` would do."""
    target = Sized(size_bytes)
    plan = FailedOver.preview(volume, vault=vault, state="unused", disk=target, at=at, planned=planned)
    steps = [step.replace("the disk", str(disk)) for step in plan["steps"]]
    if json:
        return print_json({**plan, "steps": steps})
    for number, step in enumerate(steps, 1):
        say(f"{number}. {step}")


@failover.command()
def test(
    vault: VaultUrl,
    volume: Volume,
    name: Annotated[str, typer.Option("--name", help="Name of the test, unique for the volume.")],
    state: State,
    nbd: Nbd = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    insecure: Insecure = False,
    at: At = "newest-good",
    reading: Reading = DEFAULT,
    key_file: KeyFile = None,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Serves a volume for a test, as of a point or time. Its writes go to a scratch file; protection goes on.

    Retention keeps that recovery state until `hrl failover cleanup`.
    """
    if detach:
        return run_detached(state)
    began = time.monotonic()
    replica = reading.open(vault, key_file).replica(volume)
    begun = replica.begin_test(name, state_of(replica, at))
    private_directory(state)
    ended = ended_by_signals()
    address = address_of(nbd, state)
    scratch = state / "scratch"
    scratch.unlink(missing_ok=True)
    shown = str(begun["sequence"])
    with NbdServer.replica(
        address, replica, shown, scratch=scratch, **tls_options(nbd_tls, nbd_tls_anyone, insecure)
    ) as server:
        tell_engine(server)
        started = {"point": begun["point"], "sequence": begun["sequence"], "time": begun["point_time"]}
        ready = {**ready_of(volume, server.uri, started, time.monotonic() - began), "test": name}
        control = ControlServer(state, {"status": lambda _: ready, "stop": lambda _: ended.set()})
        try:
            print_ready(ready, json=json)
            ended.wait()
        finally:
            control.close()
    scratch.unlink(missing_ok=True)


@failover.command()
def cleanup(
    vault: VaultUrl,
    volume: Volume,
    name: Annotated[str, typer.Option("--name", help="Name of the test.")],
    state: State,
    key_file: KeyFile = None,
) -> None:
    """Ends a test failover: drops what it wrote, and no longer keeps its recovery state."""
    stop_and_wait(state, "stop")
    (state / "scratch").unlink(missing_ok=True)
    open_vault(vault, key_file, changes="test end").replica(volume).end_test(name)


def stop_and_wait(state: Path, command: str, limit: float = END_SECONDS_MAX) -> bool:
    """Asks a serving process to end and waits until it has. Returns false if none is running."""
    try:
        ask(state, command)
    except Refused as refused:
        if refused.code == Exit.NOT_RUNNING or not state.is_dir():
            return False
        raise
    end = time.monotonic() + limit
    while time.monotonic() < end:
        # The socket goes first; the directory is free when its lock is.
        if not (state / SOCKET).exists() and lock_is_free(state):
            return True
        time.sleep(POLL_SECONDS)
    raise Refused(f"the process of {state} did not end within {limit:.0f} s", Exit.TIMED_OUT)


def lock_is_free(state: Path) -> bool:
    """Reports whether no process has the state directory."""
    path = state / "lock"
    if not path.exists():
        return True
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


@failover.command()
def status(
    vault: VaultUrl,
    volume: Annotated[str | None, typer.Argument(metavar="[VOLUME]", help="Default: every volume.")] = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows where volumes are in their life cycle, their branches and their test failovers."""
    opened = open_vault(vault, key_file)
    each = EachVolume(opened, volume)
    found = each.do(lambda name: opened.replica(name).lifecycle())
    if json:
        print_json(found)
        return each.end()
    table = Table("volume", "stage", "epoch", "source", "state", "since", "branches", "tests")
    for name, life in found.items():
        current = life["current"]
        at = (short(current["point"]) if current["point"] else current["sequence"]) if current else ""
        table.add(
            name,
            life["stage"],
            life["epoch"],
            life["source"] or "",
            f"{at} of {local(current['point_time'])}" if current else "",
            local(current["time"]) if current else "",
            ", ".join(f"@{b['epoch']} ({human(b['stored_bytes'])})" for b in life["branches"]),
            ", ".join(t["name"] for t in life["tests"]),
        )
    table.print()
    each.end()


@failover.command("change-point")
def change_point(
    vault: VaultUrl, volume: Volume, state: State, at: At, key_file: KeyFile = None, json: Json = False
) -> None:
    """Serves another point or time instead, before the commit. Drops what was written since the failover began."""
    replica = open_vault(vault, key_file).replica(volume)
    chosen = state_of(replica, at)
    # What is served now ends for the change, so a recovery state that there is none of is refused before.
    replica.resolve(chosen)
    ready = ask(state, "change-point", at=chosen)
    if json:
        return print_json(ready)
    say(sentence_about(ready))


@failover.command()
def commit(vault: VaultUrl, volume: Volume, state: State) -> None:
    """Makes a failover final: the vault takes nothing more from the old source as part of the volume.

    The old source learns of it when it asks the vault again: within seconds, or not at all while it cannot reach the
    vault. Until then it captures what its applications write to the old disk. All of that becomes a branch, and never part
    of the volume. Afterwards the old disk still takes writes: nothing captures them, and `hrl reprotect` overwrites them.
    So shut the old machine down, or keep its users away, before you let them in here.
    """
    ask(state, "commit")


@failover.command()
def cancel(vault: VaultUrl, volume: Volume, state: State, key_file: KeyFile = None) -> None:
    """Gives a failover up before the commit. Drops what was written since; the source goes on as before."""
    if not stop_and_wait(state, "cancel"):
        cancel_failover(open_vault(vault, key_file), volume, state)


@failover.command()
def abandon(vault: VaultUrl, volume: Volume, key_file: KeyFile = None, json: Json = False) -> None:
    """Gives up a failover whose site is lost with its state directory, so that nobody can commit or cancel it."""
    step = abandon_failover(open_vault(vault, key_file), volume)
    if step is None:
        raise Refused(f"cannot abandon a failover of {volume}: none is under way", Exit.NOT_FOUND)
    if json:
        return print_json(step)
    say(f"{volume}: gave up the failover to {step['host']} of {local(step['time'])}")


@failover.command("detach")
def detach_disk(
    state: State,
    limit: Limit = DAY,
    form: Annotated[str, typer.Option("--format", metavar="raw|qcow2", help="Format of the disk that is left.")] = "raw",
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="With --format qcow2: a new file.")] = None,
    json: Json = False,
) -> None:
    """Waits until the disk is whole, ends serving, and leaves a plain disk.

    `hrl protect` goes on with the state directory.
    """
    if form not in ("raw", "qcow2"):
        raise Refused(f"cannot write --format {form}: expected raw or qcow2", Exit.INVALID_INPUT)
    if (form == "qcow2") != (to is not None):
        raise Refused("give --format qcow2 and --to FILE together, or neither", Exit.INVALID_INPUT)
    if form == "qcow2":
        need("writing qcow2", "qemu-img")
    if to is not None:
        checked(to)
    disk = detach_when_whole(state, limit)
    if to is not None:
        with published(to) as new:
            command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, str(new)]
            made = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if made.returncode:
                raise Refused(f"qemu-img: {made.stderr.strip()}", Exit.IO)
    print_disk(to or disk, json=json)


def detach_when_whole(state: Path, limit: float) -> str:
    """Detaches the disk that a running process serves. Returns its path."""
    end = time.monotonic() + limit
    while True:
        found = ask(state, "status")
        if found["whole"]:
            break
        if time.monotonic() > end:
            left = human(found["hydrate_bytes"] - found["hydrated_bytes"])
            raise Refused(f"the disk is not whole within {limit:.0f} s: {left} left", Exit.TIMED_OUT)
        time.sleep(POLL_SECONDS)
    if not stop_and_wait(state, "detach"):
        raise Refused(f"no failover is running with {state}", Exit.NOT_RUNNING)
    return str(found["disk"])


def print_disk(disk: Path | str, *, json: bool) -> None:
    """Prints where a disk was left."""
    if json:
        print_json({"disk": str(disk)})
    else:
        print_raw(str(disk))


@command("migrate")
def migrate(
    vault: VaultUrl,
    volume: Volume,
    state: State,
    disk: Disk,
    limit: Limit = DAY,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: the volume leaves the vault.")] = False,
    overwrite: Overwrite = False,
    reading: Reading = DEFAULT,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Moves a volume here for good: a planned failover, then the whole disk, then no protection.

    The source hands over first, so nothing is lost. Afterwards the vault has nothing of the volume. If it is interrupted,
    run it again.
    """
    if not yes:
        raise Refused(f"{volume} would leave the vault with all its points: give --yes", Exit.INVALID_INPUT)
    reader = reading.open(vault, key_file)
    opened, size_bytes = reader.vault, reader.replica(volume).info["size_bytes"]
    private_directory(state)
    disks = Disks(disk, state, size_bytes)
    is_zero = disks.prepare(overwrite=overwrite)
    with disks.left_alone():
        over = FailedOver.start(
            volume,
            vault=opened,
            state=state,
            disk=disk,
            planned=min(limit, 3600),
            disk_reads_zero=is_zero,
            on_event=print_event,
        )
    over.commit()
    over.wait_hydrated(limit)
    over.detach()
    opened.shred(volume, data=True)
    forget(vault, volume)
    shutil.rmtree(state)
    print_disk(disk, json=json)
