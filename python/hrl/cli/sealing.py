"""Commands of the keys that seal volumes: key, rotate-key, shred."""

from pathlib import Path
from typing import Annotated

import typer

from hrl import Key, generate_key
from hrl.cli.base import EXIT_CODES, Json, KeyFile, Refused, app, err, human, open_vault, print_json
from hrl.cli.key_options import NewKeyFile
from hrl.cli.vault import VaultUrl, Volume


@app.command()
def key(file: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the key.")]) -> None:
    """Makes a key-encryption key. Keep a copy elsewhere: without it a sealed vault cannot be read."""
    try:
        file.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise Refused(f"{file} exists", EXIT_CODES["already-exists"]) from None
    file.write_text(generate_key() + "\n")
    err.print(f"wrote {file}, key {Key.from_file(file).id}")


@app.command("rotate-key")
def rotate_key(
    vault: VaultUrl,
    volumes: Annotated[list[str] | None, typer.Argument(metavar="VOLUME...", help="Default: every sealed volume.")] = None,
    key_file: KeyFile = None,
    new_key_file: NewKeyFile = None,
    json: Json = False,
) -> None:
    """Wraps the keys of volumes anew under another key-encryption key, without rewriting data.

    Agents go on; give them the new key at their next start. When interrupted, run it again.
    """
    if key_file is None or new_key_file is None:
        raise Refused("cannot rotate: give the old key (--key-file) and the new one (--new-key-file)", 2)
    opened = open_vault(vault, key_file)
    known = [info["name"] for info in opened.volumes() if info["sealed"] and not info["shredded"]]
    reports = {name: opened.rotate_key(name, new_key_file) for name in volumes or known}
    if json:
        return print_json({"key": new_key_file.id, "volumes": reports})
    for name, report in reports.items():
        print(f"{name}: {'opens' if report['wrapped'] else 'opened before'} with key {new_key_file.id}")
        for other in report["others"]:
            print(f"  note: another key still opens it: {other}")


@app.command()
def shred(
    vault: VaultUrl,
    volume: Volume,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: this cannot be undone.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Also delete its data, which frees its name.")] = False,
    override_legal_hold: Annotated[
        bool, typer.Option("--override-legal-hold", help="Also under legal hold, or where the key to know is missing.")
    ] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Makes a sealed volume unreadable for ever: deletes every wrapped key of it. Stop its agent first.

    Versions and copies that the store itself keeps of deleted objects stay: there the key-encryption key must go, too.
    """
    if not yes:
        raise Refused(f"{volume} would be unreadable for ever: give --yes", 2)
    report = open_vault(vault, key_file).shred(volume, data=data, override_legal_hold=override_legal_hold)
    if json:
        return print_json(report)
    print(
        f"{volume}: shredded{' before' if report['was_shredded'] else ''}, {report['keys_deleted']} keys deleted"
        + (f", {report['objects_deleted']} objects deleted ({human(report['bytes_deleted'])})" if data else "")
    )
