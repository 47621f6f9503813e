"""Commands of the process server: gateway, enroll."""

from pathlib import Path
from typing import Annotated

import typer

from hrl import Gateway, Maintainer, create_authority, enroll_client
from hrl.cli.commands import command
from hrl.cli.exits import Exit, Refused
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

    Prints its address once it serves. Runs until SIGTERM or SIGINT.
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
    )
    print_address(server.address, json=json, key="address")
    if maintain:
        maintained(Maintainer(vault, name="gateway"), MAINTAIN_SECONDS, ended=ended)
    else:
        ended.wait()
    if not server.stop(STOP_SECONDS):
        note("the cache is not empty; the next gateway with it goes on from there")


@command("enroll")
def enroll(
    pki: Annotated[Path, typer.Argument(metavar="PKI", help="Directory of the certificate authority.")],
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="NAME", help="Make the authority, for a gateway of this name.")
    ] = None,
    client: Annotated[str | None, typer.Option("--client", metavar="NAME", help="Enrol a client.")] = None,
    volume: Annotated[
        list[str] | None, typer.Option("--volume", metavar="V", help="A volume that the client may touch.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="New directory for the client's bundle.")] = None,
) -> None:
    """Makes a gateway's certificate authority (--host), or a client's certificate for some volumes (--client)."""
    if host and not client:
        create_authority(pki, host)
    elif client and volume and to and not host:
        enroll_client(pki, client, volumes=volume, bundle=to)
    else:
        raise Refused("give --host NAME, or --client NAME with --volume V and --to DIR", Exit.INVALID_INPUT)
