"""Commands of the source: protect, point, status."""

import enum
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import typer
from rich.live import Live
from rich.table import Table

from hrl import FileDevice, NbdServer, Protection, RecoveryPoint
from hrl.cli.base import (
    NOT_RUNNING,
    Json,
    KeyFile,
    NbdTls,
    NbdTlsAnyone,
    Refused,
    app,
    err,
    fields,
    human,
    open_vault,
    out,
    print_json,
    progress_bar,
    tls_options,
)
from hrl.cli.control import ControlServer, ask
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.membership import Membership
from hrl.cli.metrics import MetricsServer
from hrl.cli.scheduled_checks import checks_by_policy
from hrl.cli.signals import ended_by_signals
from hrl.health import RPO_SECONDS

StateDirectory = Annotated[Path, typer.Argument(metavar="STATE", help="State directory of the agent.")]


class Cache(enum.StrEnum):
    """Whether the host's page cache is used for a disk; the words are QEMU's."""

    NONE = "none"
    WRITEBACK = "writeback"

    @property
    def direct(self) -> Literal["auto", "never"]:
        """As `FileDevice` calls it."""
        return "auto" if self is Cache.NONE else "never"


def read_policy(path: Path | None) -> dict[str, str]:
    """A policy file: TOML with the names of the policy as keys. Its tables are no part of the policy."""
    content = read_toml(path)
    for table in ("events", "verify"):
        content.pop(table, None)
    content = {name: "\n".join(value) if is_lines(value) else value for name, value in content.items()}
    nested = [name for name, value in content.items() if isinstance(value, dict | list)]
    if nested:
        raise Refused(f"cannot read policy {path}: {nested[0]} is not a single value", 2)
    return {name: str(value) for name, value in content.items()}


def read_events(path: Path | None) -> dict[str, Any]:
    """The table `[events]` of a policy file."""
    return read_table(path, "events") or {}


def read_table(path: Path | None, name: str) -> dict[str, Any] | None:
    """A table of a policy file; nothing where it has none."""
    found = read_toml(path).get(name)
    if found is not None and not isinstance(found, dict):
        raise Refused(f"cannot read policy {path}: {name} is not a table", 2)
    return found


def read_toml(path: Path | None) -> dict[str, Any]:
    """The content of a policy file."""
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"cannot read policy {path}: {error}", 2) from None


def is_lines(value: object) -> TypeGuard[list[str]]:
    """A list of texts, which a policy takes as lines."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def milliseconds(text: str) -> int:
    """A time such as 90, 90s, 15m, 1h or 2d; seconds without a unit."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not number.isdigit():
        raise Refused(f"{text!r} is not a time: expected a number with s, m, h or d", 2)
    return int(number) * units[unit] * 1000


def tell_event(event: dict[str, str]) -> None:
    """One line per event on standard error."""
    print(f"{event['time']} {event['kind']}: {event['message']}", file=sys.stderr, flush=True)


@app.command()
def protect(
    disk: Annotated[Path, typer.Argument(metavar="DISK", help="File or block device to protect.")],
    vault: Annotated[str, typer.Option("--vault", metavar="URL|DIR", help="Where recovery points go.")],
    state: Annotated[Path, typer.Option("--state", metavar="DIR", help="Local directory of this agent.")],
    nbd: Annotated[
        str | None,
        typer.Option("--nbd", metavar="ADDR", help="unix:PATH or tcp:HOST:PORT. Default: unix:STATE/nbd.sock"),
    ] = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    volume: Annotated[str | None, typer.Option("--volume", help="Name in the vault. Default: the disk's name.")] = None,
    key_file: KeyFile = None,
    policy: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="TOML with policy values.")] = None,
    quiesce: Annotated[
        list[str] | None,
        typer.Option(
            "--quiesce",
            metavar="SPEC",
            help="Application for application-consistent points: such as fs:/mnt or postgresql:dbname=app. May be repeated.",
        ),
    ] = None,
    app_point_interval: Annotated[
        str | None,
        typer.Option("--app-point-interval", metavar="TIME", help="Mark such a point this often: 15m, 1h."),
    ] = None,
    cache: Annotated[
        Cache, typer.Option("--cache", help="How the disk is written: past the page cache, or through it until a flush.")
    ] = Cache.NONE,
    take_over: Annotated[bool, typer.Option("--take-over", help="Take the volume from another source.")] = False,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics and /healthz there, without TLS.")
    ] = None,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Captures every write to DISK, served over NBD, into the vault. Runs until SIGTERM or SIGINT, then stops cleanly."""
    ended = ended_by_signals()
    name = volume or disk.name
    chosen = read_policy(policy)
    if quiesce:
        chosen["quiesce"] = "\n".join(quiesce)
    if app_point_interval is not None:
        chosen["app_point_interval_ms"] = str(milliseconds(app_point_interval))
    state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        sinks = stack.enter_context(open_sinks(read_events(policy), events, tell_event))
        device = stack.enter_context(FileDevice(disk, direct=cache.direct, exclusive=True))
        protection = Protection(
            device,
            vault=open_vault(vault, key_file, create=True),
            state=state,
            volume=name,
            policy=chosen,
            take_over=take_over,
            on_event=sinks,
        )
        stack.enter_context(protection)
        status = stack.enter_context(agent_control(protection, state, name, chosen, ended))
        stack.enter_context(checks_by_policy(read_table(policy, "verify"), vault, name, sinks))
        if metrics:
            served = MetricsServer(metrics, status=status, events=sinks.counts, dropped=lambda: sinks.dropped)
            stack.enter_context(served)
        address = nbd or f"unix:{state / 'nbd.sock'}"
        tls = tls_options(nbd_tls, nbd_tls_anyone)
        with NbdServer.protected(address, protection, name, **tls) as server:
            print(server.uri, flush=True)
            with progress_bar("Initial replication") as tell:
                watch(protection, tell, ended)
            ended.wait()


@contextmanager
def agent_control(
    protection: Protection, state: Path, name: str, policy: dict[str, str], ended: threading.Event
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Answers the commands about an agent while the block runs; gives what they say of it."""
    status = status_of(protection, name, float(policy.get("rpo_threshold_ms", RPO_SECONDS * 1000)) / 1000)
    with Membership(protection, state) as membership:
        control = ControlServer(
            state,
            {
                **membership.handlers(),
                "point": lambda request: fields(mark(protection, request)),
                "status": lambda _: status(),
                "resync": lambda _: protection.resync(),
                "stop": lambda _: ended.set(),
            },
        )
        try:
            yield status
        finally:
            control.close()


def status_of(protection: Protection, name: str, rpo_threshold: float) -> Callable[[], dict[str, Any]]:
    """What `hrl status`, the metrics and `hrl health` say of an agent."""

    def status() -> dict[str, Any]:
        size_bytes = protection.size_bytes
        return {
            "volume": name,
            "size_bytes": size_bytes,
            "rpo_threshold_seconds": rpo_threshold,
            **fields(protection.stats()),
        }

    return status


def mark(protection: Protection, request: dict[str, Any]) -> RecoveryPoint:
    """The point that a request of `hrl point` asks for."""
    label = str(request.get("label", ""))
    return protection.mark_app(label) if request.get("app") else protection.mark(label)


def watch(protection: Protection, tell: Any, ended: threading.Event) -> None:
    """Shows the progress of initial replication or resync until it is complete."""
    total = protection.stats().resync_bytes_left
    while err.is_terminal and not ended.is_set():
        stats = protection.stats()
        if stats.mode == "ordered":
            return
        total = max(total, stats.resync_bytes_left)
        tell(total - stats.resync_bytes_left, total)
        ended.wait(0.2)


@app.command()
def point(
    state: StateDirectory,
    label: Annotated[str, typer.Option("--label", help="Text to find the point by.")] = "",
    consistent: Annotated[
        bool, typer.Option("--app", help="Quiesce the applications that the agent was started with.")
    ] = False,
    json: Json = False,
) -> None:
    """Marks a recovery point now."""
    marked = ask(state, "point", label=label, app=consistent)
    if json:
        print_json(marked)
    else:
        print(f"{marked['id']} at sequence {marked['sequence']}, {marked['time']}")


@app.command()
def resync(state: StateDirectory) -> None:
    """Reads the whole disk again beside the writes, and replicates what differs."""
    ask(state, "resync")


@app.command()
def status(
    state: StateDirectory,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until interrupted.")] = False,
) -> None:
    """Shows how an agent is doing. Exit code 16 when it is not running."""
    if watch and out.is_terminal:
        with Live(console=out, refresh_per_second=4) as live:
            while True:
                live.update(status_table(ask(state, "status")))
                time.sleep(1)
    try:
        found = ask(state, "status")
    except Refused as refused:
        if json and refused.code == NOT_RUNNING:
            print_json({"running": False})
        raise
    if json:
        print_json({"running": True, **found})
    else:
        out.print(status_table(found))


def standing(found: dict[str, Any]) -> str:
    """How the agent stands to the volume, where that is not simply having it."""
    words = {"fenced": " (fenced)", "handed_over": " (handed over)", "provisional": " (failed over, not committed)"}
    return "".join(text for name, text in words.items() if found[name])


def time_left(seconds: float | None) -> str:
    """When the backlog is in the vault, for people."""
    if seconds is None:
        return "unknown time"
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}"


def status_table(found: dict[str, Any]) -> Table:
    """The status for people."""
    table = Table(show_header=False, box=None)
    rows = {
        "volume": f"{found['volume']}, {human(found['size_bytes'])}",
        "mode": found["mode"] + standing(found),
        "RPO": f"{found['rpo_seconds']:.1f} s",
        "sequence": f"{found['last_sequence']} captured, {found['journaled_sequence']} journaled, "
        f"{found['replicated_sequence']} replicated",
        "captured": f"{found['changes']} changes, {human(found['bytes_captured'])}",
        "stored": human(found["bytes_stored"]),
        "waiting": f"{human(found['queue_bytes'])} in memory, {human(found['spool_bytes'])} in the spool",
        "shipping": f"{human(found['ship_bytes_per_second'])}/s, {time_left(found['eta_seconds'])} left",
        "resync": f"{human(found['resync_bytes_left'])} left",
        "marked regions": str(found["marked_regions"]),
        "points": f"{found['points']} in this session",
        "vault": "answers" if found["vault_available"] else "does not answer",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
