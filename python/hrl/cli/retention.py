"""Commands that decide how long points stay: compact, pin, unpin."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from hrl.cli.base import (
    EXIT_CODES,
    Json,
    KeyFile,
    Refused,
    VolumeName,
    app,
    fields,
    human,
    names_of,
    open_vault,
    print_json,
    progress_bar,
)
from hrl.cli.protect import read_policy
from hrl.cli.vault import VaultUrl, Volume

Point = Annotated[str, typer.Argument(metavar="POINT", help="Its identity, point:DIGITS or a label.")]
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def until_text(until: str) -> str:
    """A time as given, or from now where it is a number and m, h, d or w."""
    unit = UNITS.get(until[-1:])
    if unit is None or not until[:-1].isdigit():
        return until
    try:
        return (datetime.now(UTC) + timedelta(**{unit: int(until[:-1])})).isoformat()
    except OverflowError:
        raise Refused(f"cannot pin until {until}: expected a time before the year 10000", 2) from None


@app.command()
def compact(
    vault: VaultUrl,
    volume: VolumeName = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="RETENTION", help='Such as "2h all; 24h hourly; 30d daily; bytes 100G".'),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="TOML with a value named retention.")
    ] = None,
    fold_all: Annotated[
        bool, typer.Option("--all", help="Fold whatever is not kept, also where that saves few bytes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Carries retention out: drops states that are not kept, folds what is left, deletes what was replaced.

    Safe beside the agent, restores and other compactions. Replaced objects stay for the grace of the policy.
    """
    if keep is not None and policy is not None:
        raise Refused("cannot compact by two policies: give --keep or --policy", 2)
    if policy is not None:
        keep = read_policy(policy).get("retention")
    opened = open_vault(vault, key_file)
    reports = {}
    for name in names_of(opened, volume):
        if keep == "none":
            continue
        with progress_bar(f"Compacting {name}") as tell:
            reports[name] = opened.replica(name).compact(keep, fold_all=fold_all, dry_run=dry_run, progress=tell)
    if json:
        print_json({"dry_run": dry_run, "volumes": reports})
    else:
        for name, report in reports.items():
            folded = f"{report['folds']} folds, {human(report['bytes_read'])} to {human(report['bytes_written'])}"
            print(
                f"{name}: {'would be ' if dry_run else ''}{folded}; {report['points_dropped']} points dropped, "
                f"{report['objects_deleted']} objects deleted, {report['objects_waiting']} waiting"
            )
            if report["over_budget_bytes"]:
                print(f"  note: {human(report['over_budget_bytes'])} above the limit of bytes")
            for _, finding in report["findings"]:
                print(f"  {finding}")
    if any(report["findings"] for report in reports.values()):
        raise typer.Exit(EXIT_CODES["corrupt"])


@app.command()
def pin(
    vault: VaultUrl,
    volume: Volume,
    point: Point,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="A time, or from now: 30m, 12h, 30d, 8w.")
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Until it is unpinned.")] = False,
    legal_hold: Annotated[bool, typer.Option("--legal-hold", help="Until the hold is lifted as such.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")] = "",
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Keeps a recovery point through retention."""
    if [until is not None, forever, legal_hold].count(True) != 1:
        raise Refused("cannot pin: give one of --until, --forever and --legal-hold", 2)
    replica = open_vault(vault, key_file).replica(volume)
    time = until_text(until) if until is not None else None
    made = replica.pin(point, until=time, hold=legal_hold, reason=reason)
    if json:
        print_json(fields(made))
    else:
        print(f"{'held' if legal_hold else 'pinned'} {made.point}{f' until {made.until}' if made.until else ''}")


@app.command()
def unpin(
    vault: VaultUrl,
    volume: Volume,
    point: Point,
    legal_hold: Annotated[bool, typer.Option("--legal-hold", help="Lift its legal hold, not its pin.")] = False,
    key_file: KeyFile = None,
) -> None:
    """Takes the pin of a recovery point off, or lifts its legal hold."""
    open_vault(vault, key_file).replica(volume).unpin(point, hold=legal_hold)
    print(f"{'hold lifted' if legal_hold else 'unpinned'}: {point}")
