"""Commands that decide how long points stay: compact, pin, unpin, trust."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import CompactReport
from hrl.cli.commands import command
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import Json, KeyFile, VaultUrl, Volume, VolumeName, open_vault
from hrl.cli.output import fields, print_json, progress_bar, say
from hrl.cli.policy import policy_of, read_policy
from hrl.cli.states import state_of
from hrl.cli.times import rfc3339, seconds, time_option
from hrl.cli.volumes import EachVolume
from hrl.words import count, human, local

Point = Annotated[str, typer.Argument(metavar="POINT", help="The beginning of its id, or a label.")]


def until_when(text: str) -> str | None:
    """Returns a time to come as the library reads it: a time, or a duration from now."""
    try:
        return rfc3339(datetime.now(UTC) + timedelta(seconds=seconds(text)))
    except OverflowError:
        raise typer.BadParameter(f"cannot pin until {text}: expected a time before the year 10000") from None
    except ValueError:
        return time_option(text)


@command("compact")
def compact(
    vault: VaultUrl,
    volume: VolumeName = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="STEPS", help='Such as "2h all; 24h hourly; 30d daily; bytes 100G".'),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="TOML with a value named retention.")
    ] = None,
    fold_all: Annotated[
        bool, typer.Option("--all", help="Fold all that is not kept, even if that saves few bytes.")
    ] = False,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="Also rewrite what was folded under an earlier volume key (rotate-key).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    accept_clock: Annotated[
        bool, typer.Option("--accept-clock", help="The clock is right, although the catalog is over 7 days old.")
    ] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Carries retention out: drops states that are not kept, folds the rest, deletes what was replaced.

    It may run beside the agent, restores and other compactions. Replaced objects stay for the grace of the policy.
    """
    if keep is not None and policy is not None:
        raise Refused("cannot compact by two policies: give --keep or --policy", Exit.INVALID_INPUT)
    if policy is not None:
        keep = read_policy(policy).get("retention")
    opened = open_vault(vault, key_file, changes=None if dry_run else "compact")
    each = EachVolume(opened, volume)

    def work(name: str) -> CompactReport:
        with progress_bar(f"Compacting {name}") as progress, policy_of(policy):
            options: dict[str, Any] = {
                "fold_all": fold_all,
                "rekey": rekey,
                "dry_run": dry_run,
                "accept_clock": accept_clock,
            }
            return opened.replica(name).compact(keep, progress=progress, **options)

    reports = each.do(work) if keep != "none" else {}
    if json:
        print_json({"dry_run": dry_run, "volumes": reports})
    else:
        for name, report in reports.items():
            sizes = f"{human(report['bytes_read'])} to {human(report['bytes_written'])}"
            say(
                f"{name}: {'would be ' if dry_run else ''}{count(report['folds'], 'fold')}, {sizes}; "
                f"{count(report['points_dropped'], 'point')} dropped, {count(report['objects_deleted'], 'object')} deleted, "
                f"{report['objects_waiting']} waiting"
            )
            if report["over_budget_bytes"]:
                say(f"  note: {human(report['over_budget_bytes'])} above the limit of bytes")
            for _, finding in report["findings"]:
                say(f"  {finding}")
    if any(report["findings"] for report in reports.values()):
        raise typer.Exit(Exit.CORRUPT)
    each.end()


@command("pin")
def pin(
    vault: VaultUrl,
    volume: Volume,
    point: Point,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", parser=until_when, help="A time, or a duration from now: 12h, 30d."),
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep it until it is unpinned.")] = False,
    legal_hold: Annotated[bool, typer.Option("--legal-hold", help="Keep it until hrl unpin --legal-hold.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.", metavar="TEXT")] = "",
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Keeps a recovery point through retention."""
    if [until is not None, forever, legal_hold].count(True) != 1:
        raise Refused("cannot pin: give one of --until, --forever and --legal-hold", Exit.INVALID_INPUT)
    replica = open_vault(vault, key_file).replica(volume)
    made = replica.pin(state_of(replica, point), until=until, hold=legal_hold, reason=reason)
    if json:
        print_json(fields(made))
    else:
        say(f"{'held' if legal_hold else 'pinned'} {made.point}{f' until {local(made.until)}' if made.until else ''}")


@command("unpin")
def unpin(
    vault: VaultUrl,
    volume: Volume,
    point: Point,
    legal_hold: Annotated[bool, typer.Option("--legal-hold", help="Lift its legal hold, not its pin.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Takes the pin of a recovery point off, or lifts its legal hold."""
    replica = open_vault(vault, key_file, changes="unpin").replica(volume)
    replica.unpin(state_of(replica, point), hold=legal_hold)
    if json:
        print_json({"point": point, "hold": legal_hold})
    else:
        say(f"{'hold lifted' if legal_hold else 'unpinned'}: {point}")


@command("trust")
def trust(
    vault: VaultUrl,
    volume: Volume,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.", metavar="TEXT")] = "",
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Declares the suspicious points of a volume to be good, and removes the pin that their change has set.

    Points that are taken later are suspicious only after another change.
    """
    trusted = open_vault(vault, key_file, changes="trust").replica(volume).trust(reason)
    if json:
        print_json({"volume": volume, "points": trusted})
    else:
        say(f"{count(len(trusted), 'point')} trusted" if trusted else "no point is suspicious")
