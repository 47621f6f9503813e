"""Commands of the keys that encrypt volumes: key, rotate-key, shred."""

from pathlib import Path
from typing import Annotated

import typer

from hrl import Key, KeyRotation, VolumeRekeyed, generate_key
from hrl.cli.commands import command
from hrl.cli.exits import Exit, Refused
from hrl.cli.memory import forget
from hrl.cli.options import Json, KeyFile, NewKeyFile, VaultUrl, Volume, open_vault
from hrl.cli.output import note, print_json, say
from hrl.cli.targets import published
from hrl.cli.volumes import EachVolume
from hrl.words import count, human


@command("key")
def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the key.")],
    json: Json = False,
) -> None:
    """Makes a key-encryption key. Keep a copy elsewhere: without it an encrypted vault cannot be read."""
    with published(file) as new:
        new.touch(mode=0o600)
        new.write_text(generate_key() + "\n")
        made = Key.from_file(new).id
    if json:
        print_json({"file": str(file), "key": made})
    else:
        note(f"wrote {file}, key {made}")


@command("rotate-key")
def rotate_key(
    vault: VaultUrl,
    volumes: Annotated[
        list[str] | None, typer.Argument(metavar="[VOLUME]...", help="Default: every encrypted volume.")
    ] = None,
    volume_key: Annotated[
        bool, typer.Option("--volume-key", help="Draw another volume key, too, which encrypts what is new.")
    ] = False,
    key_file: KeyFile = None,
    new_key_file: NewKeyFile = None,
    json: Json = False,
) -> None:
    """Wraps the keys of volumes anew under another key-encryption key, and with --volume-key draws other volume keys.

    No data is rewritten. Agents go on: give them the new key-encryption key at their next start. With --volume-key and
    without a new key-encryption key they need nothing. If it is interrupted, run it again.
    """
    if key_file is None or (new_key_file is None and not volume_key):
        needed = "give the old key (--key-file) and the new one (--new-key-file), or --volume-key"
        raise Refused(f"cannot rotate: {needed}", Exit.INVALID_INPUT)
    opened = open_vault(vault, key_file, changes="rotate-key")
    with_new = opened if new_key_file is None else open_vault(vault, new_key_file, changes="rotate-key")
    each = EachVolume(opened, volumes)

    def work(name: str) -> tuple[KeyRotation | None, VolumeRekeyed | None] | None:
        if not volumes and not opened.volume(name)["encrypted"]:
            return None
        rotated = opened.rotate_key(name, new_key_file) if new_key_file else None
        return rotated, with_new.rekey(name) if volume_key else None

    reports = {name: report for name, report in each.do(work).items() if report}
    key = (new_key_file or key_file).id
    if json:
        rows = {
            name: dict(rotated or {}) | ({"volume_key": drawn} if drawn else {})
            for name, (rotated, drawn) in reports.items()
        }
        print_json({"key": key, "volumes": rows})
        return each.end()
    for name, (rotated, drawn) in reports.items():
        if rotated:
            say(f"{name}: {'opens' if rotated['wrapped'] else 'opened before'} with key {key}")
            for other in rotated["others"]:
                say(f"  note: another key still opens it: {other}")
        if drawn:
            say(f"{name}: encrypted with volume key {drawn['key']} from now on, generation {drawn['generation']}")
    each.end()


@command("shred")
def shred(
    vault: VaultUrl,
    volume: Volume,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: this cannot be undone.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Delete its data too, which frees its name.")] = False,
    override_legal_hold: Annotated[
        bool, typer.Option("--override-legal-hold", help="Shred it even under legal hold, or if the key to know is missing.")
    ] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Makes an encrypted volume unreadable for ever: deletes every wrapped key of it. Stop its agent first.

    A store may keep versions or copies of deleted objects. To make those unreadable, destroy the key-encryption key.
    """
    if not yes:
        raise Refused(f"{volume} would be unreadable for ever: give --yes", Exit.INVALID_INPUT)
    report = open_vault(vault, key_file, changes="shred").shred(volume, data=data, override_legal_hold=override_legal_hold)
    forget(vault, volume)
    if json:
        return print_json(report)
    objects = f", {count(report['objects_deleted'], 'object')} deleted ({human(report['bytes_deleted'])})"
    before = " before" if report["was_shredded"] else ""
    say(f"{volume}: shredded{before}, {count(report['keys_deleted'], 'key')} deleted{objects if data else ''}")
