"""Commands of the process server: gateway, enroll."""

from pathlib import Path
from typing import Annotated

import typer

from hrl import Gateway, create_authority, enroll_client
from hrl.cli.base import Refused, app, err
from hrl.cli.signals import ended_by_signals

Pki = Annotated[Path, typer.Option("--pki", metavar="DIR", help="Certificates and enrolled clients; see hrl enroll.")]


@app.command()
def gateway(
    vault: Annotated[str, typer.Option("--vault", metavar="URL|DIR", help="The store that it stands before.")],
    pki: Pki,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where clients reach it.")] = "0.0.0.0:9443",
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
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="/metrics and /healthz without TLS.")
    ] = None,
) -> None:
    """Receives segments over HTTPS with client certificates and hands them on to a vault. Runs until SIGTERM or SIGINT."""
    ended = ended_by_signals()
    server = Gateway(
        vault,
        pki=pki,
        listen=listen,
        cache=cache,
        cache_bytes_max=cache_bytes,
        acknowledge=acknowledge,
        metrics=metrics,
    )
    print(server.address, flush=True)
    ended.wait()
    if not server.stop(30.0):
        err.print("hrl: the cache is not empty; the next gateway with it goes on from there")


@app.command()
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
    """Makes a gateway's certificate authority (--host), or a client's certificate, pinned to its volumes (--client)."""
    if host and not client:
        create_authority(pki, host)
    elif client and volume and to and not host:
        enroll_client(pki, client, volumes=volume, bundle=to)
    else:
        raise Refused("give --host NAME, or --client NAME with --volume V and --to DIR", 2)
