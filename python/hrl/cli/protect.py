"""Commands of the source: protect, point, status."""

import signal
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from hrl import NbdServer, Protection
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
from hrl.cli.membership import Membership

StateDirectory = Annotated[Path, typer.Argument(metavar="STATE", help="State directory of the agent.")]


def read_policy(path: Path | None) -> dict[str, str]:
    """A policy file: TOML with the names of the policy as keys."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"cannot read policy {path}: {error}", 2) from None
    nested = [name for name, value in content.items() if isinstance(value, dict | list)]
    if nested:
        raise Refused(f"cannot read policy {path}: {nested[0]} is not a single value", 2)
    return {name: str(value) for name, value in content.items()}


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
    take_over: Annotated[bool, typer.Option("--take-over", help="Take the volume from another source.")] = False,
) -> None:
    """Captures every write to DISK, served over NBD, into the vault. Runs until SIGTERM or SIGINT, then stops cleanly."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    name = volume or disk.name
    state.mkdir(parents=True, exist_ok=True)
    protection = Protection(
        disk,
        vault=open_vault(vault, key_file, create=True),
        state=state,
        volume=name,
        policy=read_policy(policy),
        take_over=take_over,
        on_event=tell_event,
    )
    with protection, Membership(protection, state) as membership:
        control = ControlServer(
            state,
            {
                **membership.handlers(),
                "point": lambda request: fields(protection.mark(str(request.get("label", "")))),
                "status": lambda _: {
                    "volume": name,
                    "size_bytes": protection.size_bytes,
                    **fields(protection.stats()),
                },
                "resync": lambda _: protection.resync(),
                "stop": lambda _: ended.set(),
            },
        )
        try:
            address = nbd or f"unix:{state / 'nbd.sock'}"
            tls = tls_options(nbd_tls, nbd_tls_anyone)
            with NbdServer.protected(address, protection, name, **tls) as server:
                print(server.uri, flush=True)
                with progress_bar("Initial replication") as tell:
                    watch(protection, tell, ended)
                ended.wait()
        finally:
            control.close()


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
    json: Json = False,
) -> None:
    """Marks a recovery point now."""
    marked = ask(state, "point", label=label)
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
        "mode": found["mode"] + (" (fenced)" if found["fenced"] else ""),
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
