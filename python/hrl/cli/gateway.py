"""The command gateway."""

from pathlib import Path
from typing import Annotated

import typer

from hrl import Gateway, Maintainer
from hrl.cli.commands import command
from hrl.cli.keep import maintained
from hrl.cli.options import Json, duration_of
from hrl.cli.output import note, print_address
from hrl.cli.signals import ended_by_signals
from hrl.cli.times import Duration

STOP_SECONDS = 30.0
MAINTAIN_SECONDS = 3600.0
Pki = Annotated[Path, typer.Option("--pki", metavar="DIR", help="Certificates and enrolled clients; see hrl enroll.")]


@command("gateway")
def gateway(
    vault: Annotated[str, typer.Option("--vault", metavar="URL|DIR", help="The vault that segments are handed on to.")],
    pki: Pki,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Address to serve clients at.")
    ] = "0.0.0.0:9443",
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Acknowledge segments once they are durable here.")
    ] = None,
    cache_bytes: Annotated[int | None, typer.Option("--cache-bytes", metavar="N", help="Limit of the cache.")] = None,
    client_cache_bytes: Annotated[
        int | None, typer.Option("--client-cache-bytes", metavar="N", help="Limit of the cache for one client.")
    ] = None,
    client_bytes: Annotated[
        int | None, typer.Option("--client-bytes", metavar="N", help="Limit of what one client stores in the vault.")
    ] = None,
    acknowledge: Annotated[
        str | None,
        typer.Option(
            "--acknowledge",
            metavar="gateway|vault",
            help="When a segment is safe: durable in the cache (default with --cache), or in the vault.",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics and /healthz there, without TLS.")
    ] = None,
    deletion_delay: Annotated[
        Duration,
        duration_of("--deletion-delay", "For a vault that has none: hrl vault undelete brings deletes back so long."),
    ] = Duration("14d"),
    maintain: Annotated[
        bool, typer.Option("--maintain", help="Maintain the vault every hour, as hrl maintain does without the key.")
    ] = False,
    json: Json = False,
) -> None:
    """Receives segments over HTTPS with client certificates, and hands them on to a vault.

    A client does what the role in its certificate permits. Refusals are logged to standard error, and who changed what is in
    the vault (hrl audit). Prints its address once it serves. Runs until SIGTERM or SIGINT.
    """
    ended = ended_by_signals()
    server = Gateway(
        vault,
        pki=pki,
        listen=listen,
        cache=cache,
        cache_bytes_max=cache_bytes,
        acknowledge=acknowledge,
        metrics=metrics,
        deletion_delay=deletion_delay,
        client_cache_bytes_max=client_cache_bytes,
        client_stored_bytes_max=client_bytes,
        on_refused=note,
    )
    print_address(server.address, json=json, key="address")
    if maintain:
        maintained(Maintainer(vault, name="gateway"), MAINTAIN_SECONDS, ended=ended)
    else:
        ended.wait()
    if not server.stop(STOP_SECONDS):
        note("the cache is not empty; the next gateway with it goes on from there")
