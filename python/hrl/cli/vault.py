"""Commands of the vault: points, timeline, restore, serve, changes, inspect, convert."""

import contextlib
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import Key, NbdServer, RecoveryPoint, Replica, RestoreReport, Segment, TimelineEntry, inspect_hyperv
from hrl import convert as convert_journals
from hrl.cli.commands import command
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import (
    At,
    Insecure,
    Json,
    KeyFile,
    NbdTls,
    NbdTlsAnyone,
    Overwrite,
    VaultUrl,
    Volume,
    VolumeName,
    open_vault,
    tls_options,
)
from hrl.cli.output import Table, emit, fields, note, print_address, print_json, progress_bar, say
from hrl.cli.reading_options import DEFAULT, ExpectingReading, Reading
from hrl.cli.signals import ended_by_signals
from hrl.cli.sockets import tell_engine
from hrl.cli.states import short_ids, state_of
from hrl.cli.targets import interruptible, published, refuse_in_use
from hrl.cli.volumes import EachVolume, names_of
from hrl.health import OBSERVED
from hrl.words import age, count, human, local, now_nanoseconds, span, zone

SECTOR_BYTES = 512


@command("points")
def points(
    vault: VaultUrl, volume: VolumeName = None, reading: Reading = DEFAULT, key_file: KeyFile = None, json: Json = False
) -> None:
    """Lists the recovery points of each volume, oldest first.

    Times are local. The beginning of an id names the point in --at and wherever else a point is asked for.
    """
    reader = reading.open(vault, key_file)
    each = EachVolume(reader.vault, volume)
    found = each.do(reader.replica)
    if json:
        print_json([{"volume": name, **fields(p)} for name, replica in found.items() for p in replica.points()])
        return each.end()
    for at, (name, replica) in enumerate(found.items()):
        if at:
            say("")
        listed = replica.points()
        say(f"{name}: {count(len(listed), 'point')}, {version_words(replica)}")
        points_table(listed).print()
    each.end()


def version_words(replica: Replica) -> str:
    """Returns the newest catalog version of a volume, and how old it is."""
    version = replica.version()
    if version.time is None or version.time_ns is None:
        return f"catalog version {version.number}"
    old = age((now_nanoseconds() - version.time_ns) / 1e9)
    return f"catalog version {version.number} of {local(version.time)}, {old} ago"


def points_table(points: list[RecoveryPoint]) -> Table:
    """Returns the points of a volume as a table of at most 80 columns, labels aside."""
    ids = short_ids([point.id for point in points] + [point.group for point in points if point.group])
    now = now_nanoseconds()
    table = Table("point", f"time ({zone()})", "age", "kind", "label", "checks", "kept", right=("age",))
    for p in points:
        kept = ", ".join("legal hold" if pin.hold else f"until {kept_until(pin.until)}" for pin in p.pins)
        checks = ", ".join(f"{v.kind} {'ok' if v.ok else 'failed'}" for v in p.verdicts)
        table.add(ids[p.id], local(p.time), age((now - p.time_ns) / 1e9), p.kind, p.label, checks, kept)
    return table


def kept_until(until: str | None) -> str:
    """Returns until when a pin keeps its point."""
    return local(until)[:10] if until else "unpinned"


@command("timeline")
def timeline(
    vault: VaultUrl, volume: VolumeName = None, reading: Reading = DEFAULT, key_file: KeyFile = None, json: Json = False
) -> None:
    """Shows the history of volumes: ordered intervals, and gaps with their causes."""
    reader = reading.open(vault, key_file)
    each = EachVolume(reader.vault, volume)
    found = each.do(lambda name: reader.replica(name).timeline())
    if json:
        print_json([{"volume": name, **fields(e)} for name, listed in found.items() for e in listed])
        return each.end()
    for at, (name, listed) in enumerate(found.items()):
        if at:
            say("")
        say(f"{name}:")
        table = Table("first", "last", f"from ({zone()})", "to", "state", right=("first", "last"))
        for e in listed:
            state = f"gap: {e.unordered}" if e.unordered else "folded: its end stays" if e.folded else "ordered"
            if e.unordered == OBSERVED:
                state = points_only(e, reader.replica(name).points())
            table.add(e.first, e.last, local(e.from_time), local(e.to_time), state)
        table.print()
    each.end()


def points_only(stretch: TimelineEntry, points: list[RecoveryPoint]) -> str:
    """Returns how often an attached disk got a point in a stretch."""
    times = sorted(p.time_ns for p in points if stretch.first <= p.sequence <= stretch.last)
    steps = sorted(after - before for before, after in pairwise(times))
    return f"points only, every {span(steps[len(steps) // 2] / 1e9)}" if steps else "points only"


@command("restore")
def restore(
    vault: VaultUrl,
    volume: Volume,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="New file, or a block device with --device.")],
    at: At = "newest",
    overwrite: Overwrite = False,
    device: Annotated[bool, typer.Option("--device", help="Write onto an existing disk or file.")] = False,
    reading: ExpectingReading = DEFAULT,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Writes a volume as of a point, sequence or time to a sparse file or a device."""
    replica = reading.open(vault, key_file).replica(volume)
    at = state_of(replica, at)
    with progress_bar("Restoring") as progress:
        report = restored(replica, at, to, overwrite=overwrite, device=device, progress=progress)
    tell_blocks(replica)
    if json:
        print_json(report)
    else:
        say(f"restored sequence {report['sequence']} to {to}: {human(report['bytes_written'])} written")


def restored(
    replica: Replica, at: str, to: Path, *, overwrite: bool, device: bool, progress: Callable[[int, int], None]
) -> RestoreReport:
    """Restores onto a device, or to a file that has its name once it is whole."""
    if device:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG((found := to.stat()).st_mode):
                refuse_in_use(to, found)
        return replica.restore(at, to, device=True, progress=progress)
    with published(to, overwrite=overwrite, hint="use --device") as new:
        return replica.restore(at, new, progress=progress)


def tell_blocks(replica: Replica) -> None:
    """Notes that a volume has larger blocks than most disks, because what is on it may depend on them."""
    if (block_bytes := replica.info["block_bytes"]) > SECTOR_BYTES:
        name = replica.info["name"]
        note(
            f"note: {name} was protected with blocks of {block_bytes} bytes: partition tables and file systems in it may be "
            f"found only on a disk with such blocks (losetup --sector-size {block_bytes}, or logical_block_size of QEMU)"
        )


@command("serve")
def serve(
    vault: VaultUrl,
    volume: Volume,
    nbd: Annotated[str, typer.Option("--nbd", metavar="ADDR", help="unix:PATH or tcp:HOST:PORT.")],
    at: At = "newest",
    writable: Annotated[bool, typer.Option("--writable", help="Allow writes, kept in a scratch file.")] = False,
    changes_from: Annotated[
        str | None,
        typer.Option("--changes-from", metavar="POINT|TIME", help="Offer what changed since as a dirty bitmap."),
    ] = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    insecure: Insecure = False,
    reading: ExpectingReading = DEFAULT,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Serves a volume as of a point, sequence or time over NBD, without restoring it first.

    Prints the NBD address once it is served. Runs until SIGTERM or SIGINT.
    """
    ended = ended_by_signals()
    replica = reading.open(vault, key_file).replica(volume)
    at = state_of(replica, at)
    changes = replica.changes(state_of(replica, changes_from), at) if changes_from else None
    with tempfile.TemporaryDirectory(prefix="hrl-serve-") as scratch:
        file = Path(scratch) / "scratch" if writable else None
        tls = tls_options(nbd_tls, nbd_tls_anyone, insecure)
        with NbdServer.replica(nbd, replica, at, scratch=file, changes=changes, **tls) as server:
            tell_blocks(replica)
            tell_engine(server)
            print_address(server.uri, json=json, volume=volume)
            ended.wait()


@command("changes")
def changes(
    vault: VaultUrl,
    volume: Volume,
    since: Annotated[str, typer.Option("--from", metavar="POINT|TIME", help="The earlier recovery state.")],
    until: Annotated[str, typer.Option("--to", metavar="POINT|TIME", help="The later recovery state.")] = "newest",
    to_file: Annotated[Path | None, typer.Option("--to-file", metavar="FILE", help="New sparse file.")] = None,
    reading: Reading = DEFAULT,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Lists the exact extents that differ between two recovery states, or writes their data to a sparse file."""
    replica = reading.open(vault, key_file).replica(volume)
    found = replica.changes(state_of(replica, since), state_of(replica, until))
    runs = found.runs()
    written = None
    if to_file:
        with published(to_file) as new:
            written = interruptible(partial(found.write_to_file, new))
    if json:
        extents = [{"offset": offset, "length": length, "zero": zero} for offset, length, zero in runs]
        value: dict[str, Any] = {
            "from": found.since,
            "to": found.until,
            "bytes": found.total_bytes,
            "extents": extents,
        }
        return print_json(value | ({"bytes_written": written} if to_file else {}))
    if to_file:
        say(f"{written} bytes written to {to_file}")
        return
    for offset, length, zero in runs:
        emit(f"{offset} {length}{' zero' if zero else ''}")


@command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.hrl", help="A journal segment.")],
    records: Annotated[bool, typer.Option("--records", help="List every record.")] = False,
    vault: Annotated[
        str | None, typer.Option("--vault", metavar="URL|DIR", help="Vault with the key of an encrypted segment.")
    ] = None,
    volume: VolumeName = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows what a journal segment holds, after checking all of it."""
    log = inspect_hyperv(file)
    listed: list[tuple[int, str, str, int, int]] = []
    if log is not None:
        found = fields(log)
    else:
        segment = Segment(file, replica=key_holder(vault, volume, key_file))
        segment.verify()
        found = fields(segment.summary())
        listed = [(r.sequence, r.time, r.kind, r.offset, r.length) for r in segment] if records else []
    if json:
        names = ("sequence", "time", "kind", "offset", "length")
        rows = [dict(zip(names, record, strict=True)) for record in listed]
        return print_json(found | ({"records_list": rows} if records else {}))
    for name, value in found.items():
        say(f"{name:>15}  {value}")
    for sequence, time, kind, offset, length in listed:
        emit(f"{sequence:>12} {time} {kind} {offset} {length}")


def key_holder(vault: str | None, volume: str | None, key_file: Key | None) -> Replica | None:
    """Returns the replica whose keys open encrypted segments; `None` if no vault is named."""
    if vault is None:
        return None
    opened = open_vault(vault, key_file)
    names = names_of(opened, volume)
    if len(names) != 1:
        known = f" ({', '.join(names)})" if names else ""
        raise Refused(f"{vault} has {count(len(names), 'volume')}{known}: name one with --volume", Exit.INVALID_INPUT)
    return opened.replica(names[0])


@command("convert")
def convert(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Journals, or directories of them.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New file (native, log-writes) or directory (ms-hrl).")],
    to: Annotated[str, typer.Option("--to", metavar="native|ms-hrl|log-writes", help="Format to write.")],
    vault: Annotated[
        str | None, typer.Option("--vault", metavar="URL|DIR", help="Vault with the key of encrypted segments.")
    ] = None,
    volume: VolumeName = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Converts between native journals and logs of Hyper-V Replica or dm-log-writes, and says what could not be carried."""
    if to not in ("native", "ms-hrl", "log-writes"):
        raise Refused(f"cannot convert --to {to}: expected native, ms-hrl or log-writes", Exit.INVALID_INPUT)
    convert_to = partial(convert_journals, inputs, to=to, replica=key_holder(vault, volume, key_file))
    if to == "ms-hrl":
        report = convert_to(output)
    else:
        with published(output) as new:
            report = interruptible(partial(convert_to, new))
    if json:
        return print_json(report)
    counted = count(report["records"], "record") if to == "native" else count(report["writes"], "write")
    say(f"wrote {output}: {counted}, {human(report['bytes'])}")
    for text in dict(report).get("notes", []):
        say(f"  note: {text}")
