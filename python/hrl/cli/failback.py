"""Commands of the way home: hrl reprotect, hrl failback, hrl branch."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import Follower, NbdServer
from hrl.cli.background import Detach, run_detached, say_ready
from hrl.cli.base import (
    Json,
    KeyFile,
    NbdTls,
    NbdTlsAnyone,
    Refused,
    app,
    human,
    open_vault,
    print_json,
    print_table,
    progress_bar,
    tls_options,
)
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.failover import Nbd, Policy, ready_of
from hrl.cli.protect import agent_control, read_events, read_policy, tell_event
from hrl.cli.signals import ended_by_signals
from hrl.cli.vault import VaultUrl, Volume, table_of

State = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="State directory of the agent that protected the disk; it has ended.")
]
Disk = Annotated[Path, typer.Option("--disk", metavar="DISK", help="The disk at the old site, which nothing else writes.")]


@app.command()
def reprotect(
    vault: VaultUrl,
    volume: Volume,
    state: State,
    disk: Disk,
    every: Annotated[
        float | None, typer.Option("--every", metavar="SECONDS", help="Catch up again and again, until SIGTERM.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Brings the disk at the old site to the newest state, writing only where it differs. Run it on the old source.

    What the old source wrote after the failover is handed in to the branch first, and then overwritten here.
    """
    ended = ended_by_signals()
    with Follower(volume, vault=open_vault(vault, key_file), state=state, disk=disk) as follower:
        if dry_run:
            found = {**follower.status(), "bytes_to_write": follower.bytes_behind()}
            return print_json(found) if json else print(f"would write {human(found['bytes_to_write'])}")
        while True:
            with progress_bar("Catching up") as tell:
                done = follower.catch_up(progress=until(ended, tell))
            if json:
                print_json(done)
            elif every is None or done["bytes_written"]:
                print(f"{disk}: sequence {done['to']}, {human(done['bytes_written'])} written", flush=True)
            if every is None or ended.wait(every):
                return


def until(ended: threading.Event, tell: Callable[[int, int], None]) -> Callable[[int, int], bool]:
    """Shows progress, and stops the work at the end of the process."""

    def progress(done: int, total: int) -> bool:
        tell(done, total)
        return not ended.is_set()

    return progress


@app.command()
def failback(
    vault: VaultUrl,
    volume: Volume,
    state: State,
    disk: Disk,
    nbd: Nbd = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    unplanned: Annotated[
        bool, typer.Option("--unplanned", help="The other site is gone: do not ask it to hand over.")
    ] = False,
    limit: Annotated[float, typer.Option("--limit", metavar="SECONDS", help="Wait so long for the other site.")] = 120,
    policy: Policy = None,
    key_file: KeyFile = None,
    detach: Detach = False,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Takes the volume home onto the disk at the old site, and protects it there again, over NBD, as `hrl protect` does.

    The disk catches up while the other site runs; then that one hands over what is left and is fenced.
    """
    if detach:
        return run_detached(state)
    began = time.monotonic()
    ended = ended_by_signals()
    values = read_policy(policy)
    with ExitStack() as stack:
        sinks = stack.enter_context(open_sinks(read_events(policy), events, tell_event))
        follower = stack.enter_context(Follower(volume, vault=open_vault(vault, key_file), state=state, disk=disk))
        with progress_bar("Catching up") as tell:
            protection, moved = follower.fail_back(
                planned=None if unplanned else limit,
                policy=values,
                on_event=sinks,
                progress=until(ended, tell),
            )
        stack.enter_context(protection)
        stack.enter_context(agent_control(protection, state, volume, values, ended))
        address = nbd or f"unix:{state / 'nbd.sock'}"
        with NbdServer.protected(address, protection, volume, **tls_options(nbd_tls, nbd_tls_anyone)) as server:
            started = {"point": None, "sequence": moved["to"], "time": ""}
            ready = ready_of(volume, server.uri, started, time.monotonic() - began)
            say_ready({**ready, "bytes_written": moved["bytes_written"], "bytes_diverged": moved["bytes_diverged"]})
            ended.wait()


branch = typer.Typer(
    name="branch",
    help="Branches: what an old source wrote after a failover. VOLUME@EPOCH names one in restore, serve, points and diff.",
    no_args_is_help=True,
)
app.add_typer(branch)


@branch.command("list")
def list_branches(vault: VaultUrl, volume: Volume, key_file: KeyFile = None, json: Json = False) -> None:
    """Lists the branches of a volume."""
    found: list[dict[str, Any]] = open_vault(vault, key_file).replica(volume).lifecycle()["branches"]
    if json:
        return print_json(found)
    table = table_of("branch", "from", "to", "stored", "source", "ended")
    for b in found:
        name, size = f"{volume}@{b['epoch']}", human(b["stored_bytes"])
        table.add_row(name, str(b["from_sequence"]), str(b["last_sequence"]), size, b["source"] or "", b["ended"])
    print_table(table)


@branch.command()
def drop(
    vault: VaultUrl,
    volume: Annotated[str, typer.Argument(metavar="VOLUME@EPOCH", help="The branch.")],
    yes: Annotated[bool, typer.Option("--yes", help="Needed: this cannot be undone.")] = False,
    key_file: KeyFile = None,
) -> None:
    """Gives a branch up: its data goes with the next run of retention."""
    name, _, epoch = volume.rpartition("@")
    if not name or not epoch.isdigit():
        raise Refused(f"{volume!r} names no branch: expected VOLUME@EPOCH", 2)
    if not yes:
        raise Refused(f"the writes of branch {volume} would be lost: give --yes", 2)
    open_vault(vault, key_file).replica(name).drop_branch(int(epoch))
