"""Commands of deletion that can be taken back: vault undelete, vault deleted, vault delay, maintain."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import HrlError, Maintainer, Undeleted, deleted, deletion_delay, set_deletion_delay
from hrl import undelete as bring_back
from hrl.cli.commands import command, group
from hrl.cli.event_options import EventOptions, Sinks, open_sinks
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import Json, KeyFile, VaultUrl, duration_of, time_of, who
from hrl.cli.output import Table, fields, note, print_json, print_line, say
from hrl.cli.policy import policy_of, read_policy
from hrl.cli.signals import Ending, on_signals
from hrl.cli.times import Duration
from hrl.words import count, human, local, span, zone

vault = group("vault", "What was deleted from a vault: show it, and bring it back.")
VolumeNames = Annotated[
    list[str] | None, typer.Option("--volume", metavar="NAME", help="A volume. May be repeated. Default: all.")
]
DELAY = Duration("14d")


@vault.command("undelete")
def undelete(
    vault: VaultUrl,
    since: Annotated[str | None, time_of("--since", "Bring back what was deleted at this time or later.")] = None,
    volume: VolumeNames = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it nothing is changed.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows what was deleted, folded or shredded since a time, and with --yes brings it back.

    VAULT is the directory or URL that gateways use. With the key, catalogs list again what they listed then; what was
    shipped since stays. Run it again after any failure.
    """
    if since is None:
        raise Refused("cannot undelete: give the time of the attack or mistake with --since", Exit.INVALID_INPUT)
    found = bring_back(vault, since=since, key=key_file, volumes=volume, dry_run=not yes, name=who("vault undelete"))
    if json:
        print_json({"dry_run": not yes, "volumes": found})
    else:
        for entry in found:
            show(entry, would=not yes)
        if not yes and any(entry["objects"] or entry["segments"] for entry in found):
            note("nothing was changed: run it again with --yes")
    failures = [entry for entry in found if entry["failure"]]
    if failures:
        some = len(failures) < len(found)
        message = f"{failures[0]['volume']}: {failures[0]['failure']}"
        raise Refused(message, Exit.PARTLY if some else Exit.of_kind(failures[0]["failure_kind"] or ""))


def show(entry: Undeleted, *, would: bool) -> None:
    """Prints what came back of a volume, or would."""
    name = entry["volume"] or "objects of no volume"
    verb = "would come back" if would else "came back"
    parts = [f"{count(entry['objects'], 'object')} ({human(entry['bytes'])}) {verb}"]
    if entry["segments"]:
        pins = f" and {count(entry['pins'], 'pin')}" if entry["pins"] else ""
        parts.append(f"{count(len(entry['points']), 'point')}{pins} in {count(entry['segments'], 'segment')}")
    if entry["was_shredded"]:
        parts.append("it was shredded")
    if entry["version"]:
        parts.append(f"catalog version {entry['version']} says so")
    say(f"{name}: {'; '.join(parts)}")
    for replaced in entry["replaced"]:
        say(f"  note: another object {'would give' if would else 'gave'} way: {replaced}")
    for lost in entry["lost"]:
        say(f"  note: it is gone all the same: {lost}")
    if entry["folds_left"]:
        say(f"  note: {count(entry['folds_left'], 'fold')} cannot be undone, because what they were made of is gone")


@vault.command("deleted")
def list_deleted(vault: VaultUrl, json: Json = False) -> None:
    """Lists what can still be brought back, the bytes that it takes, and when it goes."""
    found, delay = deleted(vault), deletion_delay(vault)
    if json:
        return print_json({"deletion_delay": delay, "volumes": [fields(entry) for entry in found]})
    say(f"deletion delay: {span(delay) if delay else 'none, deletes are final'}")
    table = Table(
        "volume", "tombstones", "segments", "bytes", f"since ({zone()})", "until", right=("tombstones", "segments", "bytes")
    )
    for entry in found:
        name = entry.volume or "(no volume)"
        table.add(name, entry.tombstones, entry.objects, human(entry.bytes), local(entry.since), local(entry.next_due))
    if found:
        table.print()


@vault.command("delay")
def delay(
    vault: VaultUrl,
    delay: Annotated[Duration, typer.Argument(metavar="TIME", parser=Duration, help="Such as 14d; 0 makes deletes final.")],
    json: Json = False,
) -> None:
    """Sets for how long deleted objects can be brought back. What is deleted already keeps its own delay."""
    set_deletion_delay(vault, delay)
    if json:
        print_json({"deletion_delay": float(delay)})


@command("maintain")
def maintain(
    vault: VaultUrl,
    follow: Annotated[
        bool, typer.Option("--follow/--once", help="Go on until SIGTERM or SIGINT, or maintain once (default).")
    ] = False,
    interval: Annotated[Duration, duration_of("--interval", "With --follow: this often.")] = Duration("1h"),
    volume: VolumeNames = None,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="STEPS", help='Retention, such as "2h all; 24h hourly; 30d daily".')
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="TOML with a value named retention.")
    ] = None,
    delay: Annotated[
        Duration, duration_of("--deletion-delay", "For a vault that has none: deleted objects can be brought back so long.")
    ] = DELAY,
    accept_clock: Annotated[
        bool, typer.Option("--accept-clock", help="The clock is right, although the vault's own times are far behind.")
    ] = False,
    key_file: KeyFile = None,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
    json: Json = False,
) -> None:
    """Carries retention out, and removes what was deleted once its delay is over, under an identity of its own.

    Without the key nothing is folded. Give agents retention = "none" where this runs.
    """
    if keep is not None and policy is not None:
        raise Refused("cannot maintain by two policies: give --keep or --policy", Exit.INVALID_INPUT)
    keep = read_policy(policy).get("retention") if policy is not None else keep
    with policy_of(policy):
        maintainer = Maintainer(
            vault,
            key=key_file,
            volumes=volume,
            retention=None if keep == "none" else keep,
            deletion_delay=delay,
            accept_clock=accept_clock,
            name=who("maintain"),
        )
    with open_sinks({}, events, lambda event: None) as sinks:
        if follow:
            return maintained(maintainer, interval, json=json, sinks=sinks)
        volumes, purged = maintainer.run()
        tell(volumes, purged, json=json)
        report(volumes, purged, sinks)
    failures = [entry for entry in volumes if entry["failure"]]
    if failures:
        some = len(failures) < len(volumes)
        code = Exit.PARTLY if some else Exit.of_kind(failures[0]["failure_kind"] or "")
        raise Refused(failures[0]["failure"] or "", code)


def maintained(
    maintainer: Maintainer,
    interval: float,
    *,
    json: bool = False,
    ended: Ending | None = None,
    sinks: Sinks | None = None,
) -> None:
    """Maintains a vault again and again until the process is to end. `ended` is the flag that signals set until now."""
    ended = ended or Ending()

    def end() -> None:
        maintainer.stop()
        ended.set()

    on_signals(end)
    while not ended.is_set():
        try:
            volumes, purged = maintainer.run()
        except HrlError as error:
            note(str(error))
            if sinks:
                sinks.report("task-failed", "", f"maintenance: {error}")
        else:
            tell(volumes, purged, json=json)
            if sinks:
                report(volumes, purged, sinks)
        ended.wait(interval)


def report(volumes: list[Any], purged: Any, sinks: Sinks) -> None:
    """Reports what an operator must know as events."""
    if purged["clock_ahead"] is not None:
        ahead = span(purged["clock_ahead"])
        sinks.report("clock-ahead", "", f"nothing is purged: the clock is {ahead} ahead of the vault's own times")
    for entry in volumes:
        if entry["failure"]:
            sinks.report("task-failed", entry["volume"], f"maintenance: {entry['failure']}")


def tell(volumes: list[Any], purged: Any, *, json: bool) -> None:
    """Prints what a run did. Whatever an operator must know goes to standard error, too."""
    if purged["clock_ahead"] is not None:
        ahead = span(purged["clock_ahead"])
        note(f"nothing is purged: the clock is {ahead} ahead of the vault's own times; if it is right, use --accept-clock")
    for name in purged["in_use"]:
        note(f"somebody deleted what is in use: {name}; see hrl vault undelete")
    for name in purged["damaged"]:
        note(f"a tombstone cannot be read: {name}")
    for entry in volumes:
        if entry["failure"]:
            note(f"{entry['volume']}: {entry['failure']}")
    if json:
        return print_line({"volumes": volumes, "purged": purged})
    for entry in volumes:
        if (done := entry["compaction"]) and (done["folds"] or done["objects_deleted"]):
            dropped = count(done["points_dropped"], "point")
            say(f"{entry['volume']}: {count(done['folds'], 'fold')}, {dropped} dropped, {done['objects_deleted']} deleted")
    if purged["tombstones"]:
        say(f"purged {count(purged['objects'], 'object')}, {human(purged['bytes'])}; {purged['waiting']} tombstones wait")
    if purged["locked"]:
        say(f"{count(purged['locked'], 'object')} due but still locked; a later run removes them")
