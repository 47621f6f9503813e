"""The command report: a page about a vault."""

from pathlib import Path
from typing import Annotated

import typer

from hrl.cli.base import EXIT_CODES, KeyFile, Refused, app, open_vault
from hrl.cli.sizing import Volumes, seconds
from hrl.cli.vault import VaultUrl


@app.command()
def report(
    vault: VaultUrl,
    to: Annotated[Path, typer.Option("--to", metavar="FILE.html", help="New file.")],
    volumes: Volumes = None,
    rpo_threshold: Annotated[
        str, typer.Option("--rpo-threshold", metavar="TIME", help="Attention when the newest replicated write is older.")
    ] = "15m",
    app_within: Annotated[
        str,
        typer.Option(
            "--app-within", metavar="TIME", help="Attention when the newest application-consistent point is older."
        ),
    ] = "1d",
    verified_within: Annotated[
        str,
        typer.Option(
            "--verified-within",
            metavar="TIME",
            help="Attention when the newest point that passed a check is older; 0 is off.",
        ),
    ] = "0",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    key_file: KeyFile = None,
) -> None:
    """Writes one HTML page about a vault: what needs attention, then each volume. Reads catalogs only; needs no network."""
    from hrl import report

    if to.exists() and not overwrite:
        raise Refused(f"{to} exists; --overwrite replaces it", EXIT_CODES["already-exists"])
    report.write(
        open_vault(vault, key_file),
        to,
        title=vault,
        volumes=volumes,
        rpo_threshold=seconds(rpo_threshold),
        app_within=seconds(app_within),
        verified_within=seconds(verified_within),
    )
