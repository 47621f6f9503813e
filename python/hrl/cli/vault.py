"""Commands of the vault: points, timeline, restore, serve, changes, inspect, convert."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hrl import Key, NbdServer, Replica, Segment, inspect_hyperv
from hrl import convert as convert_journals
from hrl.cli.base import (
    Json,
    KeyFile,
    NbdTls,
    NbdTlsAnyone,
    Refused,
    VolumeName,
    app,
    fields,
    human,
    names_of,
    open_vault,
    print_json,
    print_table,
    progress_bar,
    tls_options,
)
from hrl.cli.signals import ended_by_signals
from hrl.cli.state import state_of

VaultUrl = Annotated[str, typer.Argument(metavar="VAULT", help="Directory or URL of the vault.")]
Volume = Annotated[str, typer.Argument(metavar="VOLUME", help="Name of the volume in the vault.")]
At = Annotated[
    str, typer.Option("--at", metavar="POINT|SEQ|TIME", help="newest, newest-good, point, label, sequence, time.")
]


def table_of(*columns: str) -> Table:
    """A table in the style of every listing."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


@app.command()
def points(vault: VaultUrl, volume: VolumeName = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Lists the recovery points."""
    opened = open_vault(vault, key_file)
    found = [(name, fields(p)) for name in names_of(opened, volume) for p in opened.replica(name).points()]
    if json:
        return print_json([{"volume": name, **p} for name, p in found])
    table = table_of("volume", "point", "kind", "sequence", "time", "label", "kept", "checks")
    for name, p in found:
        kept = ", ".join("legal hold" if pin["hold"] else f"until {pin['until'] or 'unpinned'}" for pin in p["pins"])
        checks = ", ".join(f"{v['kind']} {'ok' if v['ok'] else 'failed'}" for v in p["verdicts"])
        table.add_row(name, p["id"], p["kind"], str(p["sequence"]), p["time"], p["label"], kept, checks)
    print_table(table)


@app.command()
def timeline(vault: VaultUrl, volume: VolumeName = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Shows the history of volumes: ordered stretches, and gaps with their causes."""
    opened = open_vault(vault, key_file)
    found = [(name, fields(e)) for name in names_of(opened, volume) for e in opened.replica(name).timeline()]
    if json:
        return print_json([{"volume": name, **entry} for name, entry in found])
    table = table_of("volume", "first", "last", "from", "to", "state")
    for name, e in found:
        state = f"gap: {e['unordered']}" if e["unordered"] else "folded: its end is left" if e["folded"] else "ordered"
        table.add_row(name, str(e["first"]), str(e["last"]), e["from_time"], e["to_time"], state)
    print_table(table)


@app.command()
def restore(
    vault: VaultUrl,
    volume: Volume,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="New file, or a block device with --device.")],
    at: At = "newest",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    device: Annotated[bool, typer.Option("--device", help="Write onto an existing disk or file.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Writes a volume as of a point, sequence or time to a sparse file or a device."""
    replica = open_vault(vault, key_file).replica(volume)
    at = state_of(replica, at)
    with progress_bar("Restoring") as tell:
        report = replica.restore(at, to, overwrite=overwrite, device=device, progress=tell)
    if json:
        print_json(report)
    else:
        print(f"restored sequence {report['sequence']} to {to}: {human(report['bytes_written'])} written")


@app.command()
def serve(
    vault: VaultUrl,
    volume: Volume,
    nbd: Annotated[str, typer.Option("--nbd", metavar="ADDR", help="unix:PATH or tcp:HOST:PORT.")],
    at: At = "newest",
    writable: Annotated[bool, typer.Option("--writable", help="Allow writes, kept in a scratch file.")] = False,
    changes_from: Annotated[
        str | None,
        typer.Option("--changes-from", metavar="POINT", help="Offer what changed since as a dirty bitmap."),
    ] = None,
    nbd_tls: NbdTls = None,
    nbd_tls_anyone: NbdTlsAnyone = False,
    key_file: KeyFile = None,
) -> None:
    """Serves a volume as of a point over NBD without restoring it first. Runs until SIGTERM or SIGINT."""
    ended = ended_by_signals()
    replica = open_vault(vault, key_file).replica(volume)
    at = state_of(replica, at)
    changes = replica.changes(changes_from, at) if changes_from else None
    with tempfile.TemporaryDirectory(prefix="hrl-serve-") as scratch:
        file = Path(scratch) / "scratch" if writable else None
        tls = tls_options(nbd_tls, nbd_tls_anyone)
        with NbdServer.replica(nbd, replica, at, scratch=file, changes=changes, **tls) as server:
            print(server.uri, flush=True)
            ended.wait()


@app.command()
def changes(
    vault: VaultUrl,
    volume: Volume,
    since: Annotated[str, typer.Option("--from", metavar="POINT|SEQ|TIME", help="The earlier state.")],
    until: Annotated[str, typer.Option("--to", metavar="POINT|SEQ|TIME", help="The later state.")] = "newest",
    to_file: Annotated[Path | None, typer.Option("--to-file", metavar="FILE", help="New sparse file.")] = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Lists the exact extents written between two states, or writes their data to a sparse file."""
    found = open_vault(vault, key_file).replica(volume).changes(since, until)
    runs = found.runs()
    written = found.write_to_file(to_file) if to_file else None
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
        print(f"{written} bytes written to {to_file}")
        return
    for offset, length, zero in runs:
        print(f"{offset} {length}{' zero' if zero else ''}")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.hrl", help="A journal segment.")],
    records: Annotated[bool, typer.Option("--records", help="List every record.")] = False,
    vault: Annotated[str | None, typer.Option("--vault", help="Vault with the key of a sealed segment.")] = None,
    volume: VolumeName = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows what a journal segment holds, after checking all of it."""
    found = inspect_hyperv(file)
    listed: list[tuple[int, str, str, int, int]] = []
    if found is None:
        segment = Segment(file, replica=key_holder(vault, volume, key_file))
        segment.verify()
        found = segment.summary()
        listed = [(r.sequence, r.time, r.kind, r.offset, r.length) for r in segment] if records else []
    if json:
        names = ("sequence", "time", "kind", "offset", "length")
        rows = [dict(zip(names, record, strict=True)) for record in listed]
        return print_json(found | ({"records_list": rows} if records else {}))
    for name, value in found.items():
        print(f"{name:>15}  {value}")
    for sequence, time, kind, offset, length in listed:
        print(f"{sequence:>12} {time} {kind} {offset} {length}")


def key_holder(vault: str | None, volume: str | None, key_file: Key | None) -> Replica | None:
    """The replica whose keys open sealed segments, where a vault is named."""
    if vault is None:
        return None
    opened = open_vault(vault, key_file)
    names = names_of(opened, volume)
    if len(names) != 1:
        raise Refused(f"{vault} has {len(names)} volumes; name one with --volume", 2)
    return opened.replica(names[0])


@app.command()
def convert(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Journals, or directories of them.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New file (native, log-writes) or directory (ms-hrl).")],
    to: Annotated[str, typer.Option("--to", metavar="native|ms-hrl|log-writes", help="Format to write.")],
    vault: Annotated[str | None, typer.Option("--vault", help="Vault with the key of sealed segments.")] = None,
    volume: VolumeName = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Converts between native journals and logs of Hyper-V Replica or dm-log-writes, and says what could not be carried."""
    if to not in ("native", "ms-hrl", "log-writes"):
        raise Refused(f"cannot convert to {to}: expected native, ms-hrl or log-writes", 2)
    report = convert_journals(inputs, output, to=to, replica=key_holder(vault, volume, key_file))
    if json:
        return print_json({name: [str(v) for v in x] if isinstance(x, list) else x for name, x in report.items()})
    counted = f"{report['records']} records" if to == "native" else f"{report['writes']} writes"
    print(f"wrote {output}: {counted}, {human(report['bytes'])}")
    for note in report.get("notes", []):
        print(f"  note: {note}")
