"""The command mirror."""

import json as json_text
import threading
from typing import Annotated, Any

import typer

from hrl import HrlError, Mirror
from hrl.cli.base import EXIT_CODES, Json, KeyFile, Refused, app, err, human, open_vault
from hrl.cli.signals import on_signals


@app.command()
def mirror(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Directory or URL of the vault that is followed.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The vault that follows; made when it is absent.")],
    follow: Annotated[
        bool, typer.Option("--follow/--once", help="Go on until SIGTERM or SIGINT, or catch up once (default).")
    ] = False,
    interval: Annotated[float, typer.Option("--interval", metavar="S", help="Seconds between two looks.")] = 5.0,
    volume: Annotated[
        list[str] | None, typer.Option("--volume", metavar="V", help="A volume to mirror; default all.")
    ] = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Copies a vault to another one and keeps it the same; the target is a vault of its own at every moment.

    No key is needed. With the key, what the target's catalog names is never deleted, whatever the source lost.
    """
    followed = open_vault(source, None)
    copier = Mirror(followed, open_vault(target, key_file, create=True), volumes=volume)
    ended = threading.Event()

    def end() -> None:
        copier.stop()
        ended.set()

    on_signals(end)
    failures: list[dict[str, Any]] = []
    while not ended.is_set():
        try:
            report = copier.run()
        except HrlError as error:
            if not follow:
                raise
            err.print(f"hrl: {error}", highlight=False)
            report = []
        failures = [entry for entry in report if entry["failure"]]
        tell(report, json=json)
        if not follow:
            break
        ended.wait(interval)
    if failures and not follow:
        raise Refused(failures[0]["failure"], EXIT_CODES[failures[0]["failure_kind"]])


def tell(report: list[dict[str, Any]], *, json: bool) -> None:
    """One line for each run in JSON; for people one for each volume that something was done for."""
    if json:
        print(json_text.dumps(report), flush=True)
        return
    for entry in report:
        if entry["failure"]:
            err.print(f"hrl: {entry['failure']}", highlight=False)
        elif entry["lag"] or entry["objects_copied"] or entry["objects_deleted"]:
            copied = f"{entry['objects_copied']} objects, {human(entry['bytes_copied'])}"
            deleted = f", {entry['objects_deleted']} deleted" if entry["objects_deleted"] else ""
            place = f"version {entry['version']} of {entry['source_version']}"
            print(f"{entry['volume']}: {place}, {copied}{deleted}, {entry['lag']:.1f} s behind before", flush=True)
