"""Commands of the way home: hrl reprotect, hrl failback, hrl branch."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from hrl import CatchUp, Follower, HrlError, Key, NbdServer
from hrl.cli.background import Detach, print_ready, run_detached
from hrl.cli.commands import command, group
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.exits import Exit, Refused
from hrl.cli.failover import LIMIT, ready_of
from hrl.cli.options import (
    Insecure,
    Json,
    KeyFile,
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
from hrl.cli.output import Table, note, print_json, print_line, progress_bar, say
from hrl.cli.policy import policy_of, read_events, read_policy
from hrl.cli.protect import agent_control, print_event
from hrl.cli.signals import Ending, ended_by_signals
from hrl.cli.sockets import address_of, tell_engine
from hrl.cli.times import Duration
from hrl.words import human, local

State = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="State directory of the agent that protected the disk; it has ended.")
]
Disk = Annotated[Path, typer.Option("--disk", metavar="DISK", help="The disk at the old site, which nothing else writes.")]


@contextmanager
def following(vault: str, volume: str, state: Path, disk: Path, key: Key | None, *, json: bool) -> Iterator[Follower]:
    """Opens the disk of an old source. If the volume is home already, says how to go on, and ends the command well."""
    try:
        follower = Follower(volume, vault=open_vault(vault, key), state=state, disk=disk)
    except HrlError as error:
        if error.kind != "already-exists":
            raise
        options = {"--vault": vault, "--state": state, "--volume": volume}
        protect = " ".join(["hrl protect", quote(str(disk)), *(f"{name} {quote(str(of))}" for name, of in options.items())])
        if json:
            print_json({"volume": volume, "home": True, "next": protect})
        else:
            say(f"{volume} is home already: nothing is left to do here. Go on with {protect}")
        raise typer.Exit(Exit.DONE) from None
    with follower:
        yield follower


@command("reprotect")
def reprotect(
    vault: VaultUrl,
    volume: Volume,
    state: State,
    disk: Disk,
    every: Annotated[Duration | None, duration_of("--every", "Catch up this often, until SIGTERM or SIGINT.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Brings the disk at the old site to the newest state, and writes only where it differs. Run it on the old source.

    What the old source wrote after the failover goes to the branch first, and is then overwritten here. With --every, --json
    prints a line for each time.
    """
    ended = ended_by_signals()
    with following(vault, volume, state, disk, key_file, json=json) as follower:
        if dry_run:
            found = {**follower.status(), "bytes_to_write": follower.bytes_behind()}
            return print_json(found) if json else say(f"would write {human(found['bytes_to_write'])}")
        explain(follower)
        while True:
            with progress_bar("Catching up") as progress:
                done = as_json(follower.catch_up(progress=until(ended, progress)))
            if json:
                (print_json if every is None else print_line)(done)
            elif every is None or done["bytes_written"]:
                say(f"{disk}: sequence {done['to']}, {human(done['bytes_written'])} written")
            if every is None or ended.wait(every):
                return


def explain(follower: Follower) -> None:
    """Says why the whole disk is about to be written, if it is."""
    why = follower.status().why_everywhere
    if why:
        note(f"the whole disk is written: {why}")


def as_json(done: CatchUp) -> dict[str, int]:
    """Returns what was caught up with, under the names of the command's output."""
    moved = {"from": done.from_sequence, "to": done.to_sequence}
    return moved | {"bytes_diverged": done.bytes_diverged, "bytes_written": done.bytes_written}


def until(ended: Ending, show: Callable[[int, int], None]) -> Callable[[int, int], bool]:
    """Returns a callback that shows progress, and that stops the work when the process is to end."""

    def progress(done: int, total: int) -> bool:
        show(done, total)
        return not ended.is_set()

    return progress


@command("failback")
def failback(
    vault: VaultUrl,
    volume: Volume,
    state: State,
    disk: Disk,
    nbd: Nbd = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    insecure: Insecure = False,
    unplanned: Annotated[
        bool, typer.Option("--unplanned", help="The other site is gone: do not ask it to hand over.")
    ] = False,
    limit: Annotated[Duration, duration_of("--limit", "Wait so long for the other site.")] = LIMIT,
    policy: PolicyFile = None,
    key_file: KeyFile = None,
    detach: Detach = False,
    json: Json = False,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Takes the volume home onto the disk at the old site, and protects it there as `hrl protect` does.

    The disk catches up while the other site runs. Then the other site hands over what is left, and is fenced.

    If the volume is home already, because an earlier run was interrupted after that, the command says so and ends with 0: go
    on with `hrl protect`.
    """
    if detach:
        return run_detached(state)
    began = time.monotonic()
    ended = ended_by_signals()
    values = read_policy(policy)
    with ExitStack() as stack:
        sinks = stack.enter_context(open_sinks(read_events(policy), events, print_event))
        follower = stack.enter_context(following(vault, volume, state, disk, key_file, json=json))
        explain(follower)
        with progress_bar("Catching up") as progress, policy_of(policy):
            protection, moved = follower.fail_back(
                planned=None if unplanned else limit,
                policy=values,
                on_event=sinks,
                progress=until(ended, progress),
            )
        stack.enter_context(protection)
        stack.enter_context(agent_control(protection, state, volume, values, ended))
        address = address_of(nbd, state)
        with NbdServer.protected(address, protection, volume, **tls_options(nbd_tls, nbd_tls_anyone, insecure)) as server:
            tell_engine(server)
            started = {"point": None, "sequence": moved.to_sequence, "time": ""}
            ready = ready_of(volume, server.uri, started, time.monotonic() - began)
            written = {name: moved[name] for name in ("bytes_written", "bytes_diverged")}
            print_ready({**ready, **written}, json=json)
            ended.wait()


branch = group(
    "branch",
    "Branches: what an old source wrote after a failover. VOLUME@EPOCH names one in restore, serve, points and changes.",
)


@branch.command("list")
def list_branches(vault: VaultUrl, volume: Volume, key_file: KeyFile = None, json: Json = False) -> None:
    """Lists the branches of a volume."""
    found: list[dict[str, Any]] = open_vault(vault, key_file).replica(volume).lifecycle()["branches"]
    if json:
        return print_json(found)
    if not found:
        return say(f"{volume} has no branch")
    table = Table("branch", "from", "to", "stored", "source", "ended", right=("from", "to", "stored"))
    for b in found:
        size = human(b["stored_bytes"])
        ended = local(b["ended"])
        table.add(f"{volume}@{b['epoch']}", b["from_sequence"], b["last_sequence"], size, b["source"] or "", ended)
    table.print()


@branch.command()
def drop(
    vault: VaultUrl,
    volume: Annotated[str, typer.Argument(metavar="VOLUME@EPOCH", help="The branch.")],
    yes: Annotated[bool, typer.Option("--yes", help="Needed: this cannot be undone.")] = False,
    key_file: KeyFile = None,
) -> None:
    """Gives a branch up. The next run of retention deletes its data."""
    name, _, epoch = volume.rpartition("@")
    if not name or not epoch.isdigit():
        raise Refused(f"{volume} names no branch: expected VOLUME@EPOCH", Exit.INVALID_INPUT)
    if not yes:
        raise Refused(f"the writes of branch {volume} would be lost: give --yes", Exit.INVALID_INPUT)
    open_vault(vault, key_file, changes="branches drop").replica(name).drop_branch(int(epoch))
