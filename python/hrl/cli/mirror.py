"""The command mirror."""

from typing import Annotated

import typer

from hrl import HrlError, Mirror, MirroredVolume, deletion_delay, set_deletion_delay
from hrl.cli.commands import command
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import Json, KeyFile, duration_of, open_vault
from hrl.cli.output import note, print_line, say
from hrl.cli.signals import Ending, on_signals
from hrl.cli.times import Duration
from hrl.words import count, human


@command("mirror")
def mirror(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Directory or URL of the vault that is followed.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The vault that follows. It is made if it is absent.")],
    follow: Annotated[
        bool, typer.Option("--follow/--once", help="Go on until SIGTERM or SIGINT, or catch up once (default).")
    ] = False,
    interval: Annotated[Duration, duration_of("--interval", "With --follow: look this often.")] = Duration("5s"),
    volume: Annotated[
        list[str] | None, typer.Option("--volume", metavar="NAME", help="A volume to mirror. May be repeated. Default: all.")
    ] = None,
    delay: Annotated[
        Duration, duration_of("--deletion-delay", "Keep for so long what the source deleted or shredded.")
    ] = Duration("14d"),
    key_file: KeyFile = None,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
    json: Json = False,
) -> None:
    """Copies a vault to another one and keeps it the same. At every moment the target is a vault of its own.

    No key is needed, and of a source behind a gateway the rights of a reader are enough: run it at the target.
    With the key, nothing that the target's catalog names is deleted, whatever the source lost. A source whose history
    shrinks is the event source-shrank.
    """
    followed = open_vault(source, None)
    open_vault(target, None, create=True)
    if not target.startswith("gateway://") and not deletion_delay(target):
        set_deletion_delay(target, delay)
    copier = Mirror(followed, open_vault(target, key_file), volumes=volume, keep=delay)
    ended = Ending()

    def end() -> None:
        copier.stop()
        ended.set()

    on_signals(end)
    failures: list[MirroredVolume] = []
    shrunk: set[str] = set()
    with open_sinks({}, events, lambda event: None) as sinks:
        while not ended.is_set():
            try:
                report = copier.run()
            except HrlError as error:
                if not follow:
                    raise
                note(str(error))
                report = []
            failures = [entry for entry in report if entry["failure"]]
            show(report, json=json)
            for entry in report:
                # Once, until it is whole again.
                if entry["shrunk"] and entry["volume"] not in shrunk:
                    sinks.report("source-shrank", entry["volume"], entry["shrunk"])
            shrunk = {entry["volume"] for entry in report if entry["shrunk"]} if report else shrunk
            if not follow:
                break
            ended.wait(interval)
    if failures and not follow:
        some = len(failures) < len(report)
        raise Refused(failures[0]["failure"], Exit.PARTLY if some else Exit.of_kind(failures[0]["failure_kind"]))


def show(report: list[MirroredVolume], *, json: bool) -> None:
    """Prints a line for each volume that was changed; in JSON a line for the whole run."""
    if json:
        return print_line(report)
    for entry in report:
        if entry["shrunk"]:
            note(f"{entry['volume']}: {entry['shrunk']}; the mirror keeps it for now: hrl vault undelete brings it back")
        if entry["failure"]:
            note(entry["failure"])
        elif entry["lag"] or entry["objects_copied"] or entry["objects_deleted"]:
            copied = f"{count(entry['objects_copied'], 'object')}, {human(entry['bytes_copied'])}"
            deleted = f", {entry['objects_deleted']} deleted" if entry["objects_deleted"] else ""
            place = f"version {entry['version']} of {entry['source_version']}"
            say(f"{entry['volume']}: {place}, {copied}{deleted}, {entry['lag']:.1f} s behind before")
