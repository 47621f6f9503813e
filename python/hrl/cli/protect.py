"""Commands of the source: protect, point, resync, status."""

import enum
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hrl import Attachment, FileDevice, NbdServer, Protection, RecoveryPoint
from hrl.cli.commands import command
from hrl.cli.control import ControlServer, ask
from hrl.cli.event_options import EventOptions, Sinks, open_sinks
from hrl.cli.exits import Exit, Refused
from hrl.cli.membership import Membership
from hrl.cli.options import (
    Insecure,
    Json,
    KeyFile,
    MetricsAddress,
    Nbd,
    NbdTls,
    NbdTlsAnyone,
    PolicyFile,
    StateDirectory,
    duration_of,
    open_vault,
    tls_options,
)
from hrl.cli.output import Table, emit, fields, print_address, print_error, print_json, progress_bar, say
from hrl.cli.policy import policy_of, read_events, read_policy, read_table, seconds_of
from hrl.cli.rights import private_directory
from hrl.cli.scheduled_checks import arguments_of, checks_by_policy
from hrl.cli.signals import Ending, ended_by_signals
from hrl.cli.sockets import address_of, tell_engine
from hrl.cli.times import Duration
from hrl.health import RPO_SECONDS
from hrl.words import count, human, local, moment

CLEAR_SCREEN = "\x1b[H\x1b[2J"
WAIT_LIMIT = Duration("60s")
WAIT_SECONDS = 0.1


class Cache(enum.StrEnum):
    """Whether the host's page cache is used for a disk; the words are QEMU's."""

    NONE = "none"
    WRITEBACK = "writeback"

    @property
    def direct(self) -> Literal["auto", "never"]:
        """Returns the same in the words of `FileDevice`."""
        return "auto" if self is Cache.NONE else "never"


class Wait(enum.StrEnum):
    """What `hrl status` waits for: an agent that answers, or a volume whose first copy or resync is complete."""

    RUNNING = "running"
    ORDERED = "ordered"


def print_event(event: dict[str, str]) -> None:
    """Prints an event as a line on standard error."""
    print_error(f"{event['time']} {event['kind']}: {event['message']}")


@command("protect")
def protect(
    disk: Annotated[Path, typer.Argument(metavar="DISK", help="File or block device to protect.")],
    vault: Annotated[str, typer.Option("--vault", metavar="URL|DIR", help="Vault for the journal and its points.")],
    state: Annotated[Path, typer.Option("--state", metavar="DIR", help="State directory of this agent.")],
    nbd: Nbd = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    insecure: Insecure = False,
    volume: Annotated[
        str | None, typer.Option("--volume", metavar="NAME", help="Name in the vault. Default: the disk's name.")
    ] = None,
    key_file: KeyFile = None,
    policy: PolicyFile = None,
    quiesce: Annotated[
        list[str] | None,
        typer.Option(
            "--quiesce",
            metavar="SPEC",
            help="Application for application-consistent points: such as fs:/mnt or postgresql:dbname=app. May be repeated.",
        ),
    ] = None,
    app_point_interval: Annotated[
        Duration | None, duration_of("--app-point-interval", "Take an application-consistent point this often.")
    ] = None,
    cache: Annotated[
        Cache,
        typer.Option("--cache", metavar="none|writeback", help="Write past the page cache, or through it until a flush."),
    ] = Cache.NONE,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the volume from another source, which must be gone for good.")
    ] = False,
    adopt_disk: Annotated[
        bool,
        typer.Option("--adopt-disk", help="Go on with another disk than the one that was protected; compare all of it."),
    ] = False,
    suspicion: Annotated[
        bool,
        typer.Option("--suspicion/--no-suspicion", help="Notice when data is suddenly encrypted, and judge later points."),
    ] = True,
    unordered: Annotated[
        bool,
        typer.Option("--unordered", help="A copy writes to DISK, in no order: take no point before hrl in-sync."),
    ] = False,
    metrics: MetricsAddress = None,
    json: Json = False,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Captures every write to DISK into a vault, and serves the disk over NBD.

    Prints the NBD address once it is served. Runs until SIGTERM or SIGINT, then stops cleanly.

    A new state directory makes a vault of an empty directory. If the state directory knows the volume, no vault is made, and
    while the vault is away the disk is served all the same: its changes wait in the spool.
    """
    ended = ended_by_signals()
    name = volume or name_of(disk)
    chosen, check_options = choices_of(policy, quiesce, {"app_point_interval": app_point_interval})
    private_directory(state)
    with ExitStack() as stack:
        sinks = stack.enter_context(open_sinks(read_events(policy), events, print_event))
        device = stack.enter_context(FileDevice(disk, direct=cache.direct, exclusive=True))
        with policy_of(policy):
            protection = Protection(
                device,
                vault=open_vault(vault, key_file, state=state),
                state=state,
                volume=name,
                policy=chosen,
                take_over=take_over,
                adopt_disk=adopt_disk,
                on_event=sinks,
                suspicion=suspicion,
                outside_writer=unordered,
            )
        stack.enter_context(protection)
        status = stack.enter_context(agent_control(protection, state, name, chosen, ended))
        stack.enter_context(checks_by_policy(check_options, vault, name, sinks))
        stack.enter_context(served_metrics(metrics, [status], sinks))
        address = address_of(nbd, state)
        tls = tls_options(nbd_tls, nbd_tls_anyone, insecure)
        with NbdServer.protected(address, protection, name, **tls) as server:
            tell_engine(server)
            print_address(server.uri, json=json, volume=name)
            with progress_bar("Initial replication") as progress:
                watch(protection, progress, ended)
            ended.wait()


def choices_of(
    policy: Path | None, quiesce: list[str] | None, intervals: dict[str, Duration | None]
) -> tuple[dict[str, str], list[str] | None]:
    """Returns the policy of an agent, in which options win over the file, and the options of its scheduled checks.

    Both are read before anything runs, so that a mistake is known by then.
    """
    chosen = read_policy(policy)
    checks = read_table(policy, "verify")
    check_options = arguments_of(checks, policy) if checks is not None else None
    if quiesce:
        chosen["quiesce"] = "\n".join(quiesce)
    for field, interval in intervals.items():
        if interval is not None:
            chosen.pop(field, None)
            chosen[f"{field}_ms"] = str(round(interval * 1000))
    return chosen, check_options


@contextmanager
def served_metrics(address: str | None, statuses: list[Callable[[], dict[str, Any]]], sinks: Sinks) -> Iterator[None]:
    """Serves the metrics of an agent's volumes while the block runs, if there is an address."""
    if not address:
        yield
        return
    from hrl.cli.metrics import MetricsServer

    def now() -> list[dict[str, Any]]:
        return [status() for status in statuses]

    with MetricsServer(address, statuses=now, events=sinks.counts, dropped=lambda: sinks.dropped):
        yield


def name_of(disk: Path) -> str:
    """Returns the name of a disk as that of its volume. Others than UTF-8 have none that a vault could keep."""
    try:
        disk.name.encode()
    except UnicodeEncodeError:
        raise Refused(f"the name of {disk} is not UTF-8: name the volume with --volume", Exit.INVALID_INPUT) from None
    return disk.name


@contextmanager
def agent_control(
    protection: Protection | Attachment, state: Path, name: str, policy: dict[str, str], ended: Ending
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Answers the commands about an agent while the block runs. Yields a function that returns the agent's status."""
    status = status_of(protection, name, seconds_of(policy, "rpo_threshold", RPO_SECONDS))
    with ExitStack() as stack:
        # The cuts of an attached disk cannot wait for those of other machines.
        member = stack.enter_context(Membership(protection, state)) if isinstance(protection, Protection) else None
        control = ControlServer(
            state,
            {
                **(member.handlers() if member else {}),
                "point": lambda request: fields(mark(protection, request)),
                "status": lambda _: status(),
                "resync": lambda _: protection.resync(),
                "in-sync": lambda request: set_in_sync(protection, request),
                "stop": lambda _: ended.set(),
            },
        )
        try:
            yield status
        finally:
            control.close()


def status_of(protection: Protection | Attachment, name: str, rpo_threshold: float) -> Callable[[], dict[str, Any]]:
    """Returns the function behind `hrl status`, the metrics and `hrl health` of an agent."""

    def status() -> dict[str, Any]:
        size_bytes = protection.size_bytes
        return {
            "volume": name,
            "size_bytes": size_bytes,
            "rpo_threshold_seconds": rpo_threshold,
            **fields(protection.stats()),
            **(fields(protection.cuts()) if isinstance(protection, Attachment) else {}),
        }

    return status


def mark(protection: Protection | Attachment, request: dict[str, Any]) -> RecoveryPoint:
    """Takes the point that a request of `hrl point` asks for."""
    label = str(request.get("label", ""))
    return protection.mark_app(label) if request.get("app") else protection.mark(label)


def set_in_sync(protection: Protection | Attachment, request: dict[str, Any]) -> None:
    """Does what a request of `hrl in-sync` asks for."""
    if isinstance(protection, Attachment):
        raise Refused("an attached disk is in order at its points: no copy writes to it", Exit.INVALID_INPUT)
    protection.set_writer_in_sync(not request.get("lost"))


def watch(protection: Protection | Attachment, progress: Callable[[int, int], None], ended: Ending) -> None:
    """Shows the progress of initial replication or resync on a terminal until it is complete."""
    total = protection.stats().resync_bytes_left
    while sys.stderr.isatty() and not ended.is_set():
        stats = protection.stats()
        if stats.mode == "ordered":
            return
        total = max(total, stats.resync_bytes_left)
        progress(total - stats.resync_bytes_left, total)
        ended.wait(0.2)


@command("point")
def point(
    state: StateDirectory,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Text to find the point by.")] = "",
    consistent: Annotated[
        bool, typer.Option("--app", help="Quiesce the applications that the agent was started with.")
    ] = False,
    json: Json = False,
) -> None:
    """Takes a recovery point now."""
    marked = ask(state, "point", label=label, app=consistent)
    if json:
        print_json(marked)
    else:
        say(f"{marked['id']} at sequence {marked['sequence']}, {local(marked['time'])}")


@command("resync")
def resync(state: StateDirectory) -> None:
    """Reads the whole disk again beside the writes, and replicates what differs."""
    ask(state, "resync")


@command("in-sync")
def in_sync(
    state: StateDirectory,
    lost: Annotated[bool, typer.Option("--lost", help="The copy is in no order any more.")] = False,
) -> None:
    """Says that the copy onto a disk is in sync, so that points can be taken.

    For agents that were started with --unordered. Call it when the copy's driver has said so, such as QEMU by
    "actively-synced" of a mirror in the copy mode write-blocking. The agent takes that back by itself when the client goes
    away or a write fails.
    """
    ask(state, "in-sync", lost=lost)


@command("status")
def status(
    state: StateDirectory,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until interrupted.")] = False,
    wait: Annotated[
        Wait | None,
        typer.Option("--wait", metavar="running|ordered", help="Wait for the agent, or until its volume is in order."),
    ] = None,
    limit: Annotated[Duration, duration_of("--limit", "Give up --wait after this time.")] = WAIT_LIMIT,
) -> None:
    """Shows how an agent is doing. The exit code is 16 when it is not running."""
    try:
        if wait is not None:
            wait_for(wait, state, limit)
        while watch and sys.stdout.isatty():
            table = status_table(ask(state, "status"))
            emit(CLEAR_SCREEN, end="")
            table.print()
            time.sleep(1)
        found = ask(state, "status")
    except Refused as refused:
        if json and refused.code == Exit.NOT_RUNNING:
            print_json({"running": False})
        raise
    if json:
        print_json({"running": True, **found})
    else:
        status_table(found).print()


def wait_for(wanted: Wait, state: Path, limit: Duration) -> None:
    """Waits for the agent of a state directory. When the limit is over, raises `Refused` with what is missing."""
    end = time.monotonic() + limit
    while True:
        try:
            found = ask(state, "status")
            if wanted is Wait.RUNNING or found["mode"] == "ordered":
                return
            left = human(found["resync_bytes_left"])
            missing = Refused(f"{found['volume']} is in mode {found['mode']}, {left} left to read", Exit.TIMED_OUT)
        except Refused as refused:
            # An agent makes its state directory when it starts.
            if refused.code not in (Exit.NOT_RUNNING, Exit.NOT_FOUND):
                raise
            missing = Refused(f"no agent is running with {state}", Exit.NOT_RUNNING)
        if time.monotonic() >= end:
            raise Refused(f"{missing} (waited {limit})", missing.code)
        time.sleep(WAIT_SECONDS)


def standing(found: dict[str, Any]) -> str:
    """Returns why the agent does not simply have the volume; empty if it does."""
    words = {"fenced": " (fenced)", "handed_over": " (handed over)", "provisional": " (failed over, not committed)"}
    return "".join(text for name, text in words.items() if found[name])


def vault_of(found: dict[str, Any]) -> str:
    """Returns whether the vault of an agent answers."""
    if found["vault_away"]:
        return "away since the start: nothing is shipped, and nothing counts as replicated"
    return "answers" if found["vault_available"] else "does not answer"


def time_left(seconds: float | None) -> str:
    """Returns in what time the backlog is in the vault."""
    if seconds is None:
        return "unknown time"
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}"


def time_of_version(time_ns: int | None) -> str:
    """Returns the time of a catalog version, behind its number."""
    return f" of {moment(time_ns)} UTC" if time_ns is not None else ""


def status_table(found: dict[str, Any]) -> Table:
    """Returns the status of an agent for people."""
    table = Table("name", "value", header=False)
    rows = {
        "volume": f"{found['volume']}, {human(found['size_bytes'])}",
        "mode": found["mode"] + standing(found),
        "RPO": f"{found['rpo_seconds']:.1f} s",
        "sequence": f"{found['last_sequence']} captured, {found['journaled_sequence']} journaled, "
        f"{found['replicated_sequence']} replicated",
        "captured": f"{count(found['changes'], 'change')}, {human(found['bytes_captured'])}",
        "stored": human(found["bytes_stored"]),
        "waiting": f"{human(found['queue_bytes'])} in memory, {human(found['spool_bytes'])} in the spool",
        "shipping": f"{human(found['ship_bytes_per_second'])}/s, {time_left(found['eta_seconds'])} left",
        "resync": f"{human(found['resync_bytes_left'])} left",
        "dirty regions": str(found["marked_regions"]),
        "points": f"{found['points']} in this session",
        "catalog": f"version {found['catalog_version']}{time_of_version(found['catalog_time_ns'])}",
        "vault": vault_of(found),
    }
    if "cuts" in found:
        rows |= cut_rows(found)
    for name, value in rows.items():
        table.add(name, value)
    return table


def cut_rows(found: dict[str, Any]) -> dict[str, str]:
    """Returns the status of an attached disk for people."""
    last = found["last_point_time_ns"]
    taken = f"{found['last_cut_seconds']:.2f} s, {count(found['last_cut_tries'], 'try', 'tries')}"
    return {
        "last cut": f"{moment(last)} UTC, {taken}, {human(found['last_cut_bytes_copied'])} copied" if last else "none yet",
        "reads": f"{found['read_amplification']:.2f} for each byte of changed blocks",
        "audits": f"{found['audits_failed']} failed",
        "skipped": f"{count(found['skipped'], 'point')}, {count(found['freezes'], 'freeze')}",
        "programs": f"{human(found['map_bytes'])} of maps, {'pinned' if found['pinned'] else 'not pinned'}",
    }
