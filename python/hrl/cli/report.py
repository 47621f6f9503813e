"""The command report: a page about a vault."""

from pathlib import Path
from typing import Annotated

import typer

from hrl import deleted
from hrl.cli.commands import command
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import KeyFile, Overwrite, PolicyFile, VaultUrl, Volumes, duration_of
from hrl.cli.policy import read_policy, seconds_of
from hrl.cli.reading_options import DEFAULT, Reading
from hrl.cli.targets import published
from hrl.cli.times import Duration


@command("report")
def report(
    vault: VaultUrl,
    to: Annotated[Path, typer.Option("--to", metavar="FILE.html", help="New file.")],
    volumes: Volumes = None,
    policy: PolicyFile = None,
    rpo_threshold: Annotated[
        Duration | None,
        duration_of(
            "--rpo-threshold", "Ask for attention when the newest replicated write is older. Default: the policy's, or 15m."
        ),
    ] = None,
    app_within: Annotated[
        Duration | None,
        duration_of(
            "--app-within",
            "Ask for attention when the newest application-consistent point is older. "
            "Default: twice the policy's interval, else off.",
        ),
    ] = None,
    verified_within: Annotated[
        Duration,
        duration_of("--verified-within", "Ask for attention when the newest point that passed a check is older; 0 is off."),
    ] = Duration("0"),
    overwrite: Overwrite = False,
    key_file: KeyFile = None,
    reading: Reading = DEFAULT,
) -> None:
    """Writes one HTML page about a vault: what needs attention, then each volume.

    Reads catalogs only. The page needs no network.
    """
    from hrl import report
    from hrl.health import RPO_SECONDS, app_seconds

    chosen = read_policy(policy)
    reader = reading.open(vault, key_file)
    with published(to, overwrite=overwrite) as new:
        unread = report.write(
            reader.vault,
            new,
            title=vault,
            volumes=volumes,
            rpo_threshold=seconds_of(chosen, "rpo_threshold", RPO_SECONDS) if rpo_threshold is None else rpo_threshold,
            app_within=app_seconds(seconds_of(chosen, "app_point_interval", 0)) if app_within is None else app_within,
            verified_within=verified_within,
            check=reader.problem,
            lost=reader.lost(volumes),
            restorable=[] if vault.startswith("gateway://") else deleted(vault),
        )
    if unread:
        raise Refused(f"{to} is written, but cannot be read: {', '.join(unread)}", Exit.PARTLY)
