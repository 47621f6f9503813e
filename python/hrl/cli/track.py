"""The command track: what changes on a disk in use, between named checkpoints. No data is kept."""

from pathlib import Path
from typing import Annotated

import typer

from hrl import Checkpoint, FileDevice, NbdServer, Tracker
from hrl.cli.commands import group
from hrl.cli.exits import Exit
from hrl.cli.options import Insecure, Json, NbdTls, NbdTlsAnyone, tls_options
from hrl.cli.output import Table, emit, fields, note, print_address, print_json, say
from hrl.cli.signals import ended_by_signals
from hrl.cli.sockets import tell_engine
from hrl.words import count, human, local

HELP = """Lists what changes on a disk or partition in use, between named checkpoints, for backup programs. No data is kept.

Make a checkpoint first, then read the disk. The exit code is that of a failed check if changes could not be audited; then
they are the whole disk. It is that of a changed disk if the machine has booted since a checkpoint."""
WHOLE = "the changes are the whole disk"
track = group("track", help=HELP)

Disk = Annotated[Path, typer.Argument(metavar="DISK", help="A disk or partition, mounted or not.")]
State = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="Directory of the checkpoints. Default: /var/lib/hrl/track.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A checkpoint.")]
Since = Annotated[str, typer.Option("--from", metavar="NAME", help="The earlier checkpoint.")]
Until = Annotated[str | None, typer.Option("--to", metavar="NAME", help="The later checkpoint. Default: now.")]


@track.command("start")
def start(disk: Disk, state: State = None, json: Json = False) -> None:
    """Begins to track a disk, until it is stopped or the machine boots."""
    status = Tracker.start(disk, state=state).status()
    if json:
        return print_json({"disk": str(disk), **fields(status)})
    say(f"{disk} is tracked: {human(status.disk_bytes)}, {human(status.memory_bytes)} of memory")


@track.command("checkpoint")
def checkpoint(disk: Disk, name: Name, state: State = None, json: Json = False) -> None:
    """Makes a checkpoint. Changes after it are apart from those before."""
    made = Tracker(disk, state=state).checkpoint(name)
    if json:
        print_json(shown(made))
    else:
        say(f"checkpoint {name}: {human(made.bytes_changed)} changed since the one before")
    refuse_inexact(made.everything)


@track.command("checkpoints")
def checkpoints(disk: Disk, state: State = None, json: Json = False) -> None:
    """Lists the checkpoints of a disk, oldest first."""
    listed = Tracker(disk, state=state).checkpoints()
    if json:
        return print_json([shown(one) for one in listed])
    table = Table("name", "time", "changed", "")
    for one in listed:
        remark = one.everything or ("" if one.is_current else "of before a boot: everything may have changed since")
        table.add(one.name, local(one.time), human(one.bytes_changed), remark)
    table.print()


@track.command("changes")
def changes(disk: Disk, since: Since, until: Until = None, state: State = None, json: Json = False) -> None:
    """Lists the exact extents that changed after a checkpoint, up to another or up to now."""
    found = Tracker(disk, state=state).changes(since, until)
    if json:
        print_json(
            {
                "from": found.since,
                "to": found.until,
                "bytes": found.total_bytes,
                "exact": found.exact,
                "everything": found.everything,
                "extents": [{"offset": offset, "length": length, "zero": False} for offset, length in found],
            }
        )
    else:
        for offset, length in found:
            emit(f"{offset} {length}")
    refuse_inexact(found.everything)


@track.command("serve")
def serve(
    disk: Disk,
    since: Since,
    nbd: Annotated[str, typer.Option("--nbd", metavar="ADDR", help="unix:PATH or tcp:HOST:PORT.")],
    until: Until = None,
    read: Annotated[
        Path | None, typer.Option("--read", metavar="PATH", help="Serve this instead, such as a snapshot of the disk.")
    ] = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    insecure: Insecure = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Serves the disk over NBD, for reads, with what changed since a checkpoint as a dirty bitmap.

    Prints the NBD address once it is served. Runs until SIGTERM or SIGINT. The changes are those at its start.
    """
    ended = ended_by_signals()
    found = Tracker(disk, state=state).changes(since, until)
    if found.everything:
        note(f"{WHOLE}: {found.everything}")
    tls = tls_options(nbd_tls, nbd_tls_anyone, insecure)
    with (
        FileDevice(read or disk, read_only=True) as device,
        NbdServer.device(nbd, device, disk.name, read_only=True, changes=found, **tls) as server,
    ):
        tell_engine(server)
        print_address(server.uri, json=json, volume=disk.name)
        ended.wait()


@track.command("forget")
def forget(disk: Disk, name: Name, state: State = None) -> None:
    """Forgets a checkpoint. Its changes count for the next one."""
    Tracker(disk, state=state).forget(name)


@track.command("status")
def status(
    disk: Annotated[Path | None, typer.Argument(metavar="[DISK]", help="Default: all disks that are tracked.")] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Shows which disks are tracked, and what that takes."""
    trackers = [Tracker(disk, state=state)] if disk else Tracker.all(state=state)
    found = [(str(tracker.disk), tracker.status(), len(tracker.checkpoints())) for tracker in trackers]
    if json:
        print_json([{"disk": path, **fields(now), "checkpoints": made} for path, now, made in found])
    else:
        table = Table("disk", "size", "since", "checkpoints", "changed since the last", "memory")
        for path, now, made in found:
            table.add(path, human(now.disk_bytes), local(now.since), made, human(now.bytes_changed), human(now.memory_bytes))
        table.print()
    lost = [(path, now.lost) for path, now, _ in found if now.lost]
    for path, why in lost:
        note(f"{path} is not tracked any more: {why}")
    if lost:
        raise typer.Exit(Exit.CHANGED)


@track.command("stop")
def stop(disk: Disk, state: State = None, json: Json = False) -> None:
    """Stops to track a disk, and forgets its checkpoints. Nothing stays in the kernel."""
    tracker = Tracker(disk, state=state)
    forgotten = len(tracker.checkpoints())
    tracker.stop()
    if json:
        return print_json({"disk": str(disk), "forgotten": forgotten})
    say(f"{disk} is not tracked any more; {count(forgotten, 'checkpoint')} forgotten")


def shown(made: Checkpoint) -> dict[str, object]:
    """Returns a checkpoint as JSON has it."""
    return {**fields(made), "exact": made.everything is None}


def refuse_inexact(everything: str | None) -> None:
    """Ends the command with the exit code of a failed check if changes are the whole disk."""
    if everything:
        note(f"{WHOLE}: {everything}")
        raise typer.Exit(Exit.CHECK_FAILED)
