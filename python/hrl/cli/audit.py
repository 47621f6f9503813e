"""The command audit: who changed what in a vault."""

from typing import Annotated

import typer

from hrl import read_audit
from hrl.cli.commands import command
from hrl.cli.exits import Exit
from hrl.cli.options import Json, VaultUrl, open_vault
from hrl.cli.output import Table, note, print_json, say
from hrl.words import count, human, local


@command("audit")
def audit(
    vault: VaultUrl,
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="HEAD", help="The end of the log as it was printed before.")
    ] = None,
    json: Json = False,
) -> None:
    """Shows who added, deleted and was refused what, and verifies the log.

    The exit code is that of corrupt data if an entry was removed, altered or reordered. Keep the printed end of the log
    elsewhere: with it a removed end is found, too.
    """
    log = read_audit(open_vault(vault, None), expected=expect)
    if json:
        print_json({"head": log.head, "findings": log.findings, "entries": [dict(entry) for entry in log.entries]})
    else:
        table = Table("time", "client", "role", "verb", "outcome", "objects")
        for entry in log.entries:
            what = entry.objects[0] if len(entry.objects) == 1 else f"{len(entry.objects)} objects from {entry.objects[0]}"
            if entry.count > 1:
                what = f"{entry.count} in {what}"
            if entry.bytes:
                what += f" ({human(entry.bytes)})"
            table.add(local(entry.time), entry.client, entry.role, entry.verb, entry.outcome, what)
        table.print()
        say(f"{count(len(log.entries), 'entry', 'entries')}; the log ends with {log.head}")
        for finding in log.findings:
            note(finding)
    if log.findings:
        raise typer.Exit(Exit.CORRUPT)
