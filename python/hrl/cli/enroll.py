"""Commands of certificates: enroll, and what it makes, renews and revokes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import create_authority, enroll_client, renew_client, renew_server, request_client, revoke_client
from hrl.cli.commands import Group, group
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import Json, open_vault
from hrl.cli.output import print_json, say

DAYS = 397

Pki = Annotated[Path, typer.Argument(metavar="PKI", help="Directory of the certificate authority.")]
Hosts = Annotated[list[str] | None, typer.Option("--host", metavar="NAME", help="Name or address of the gateway.")]
Client = Annotated[str | None, typer.Option("--client", metavar="NAME", help="Name of the client.")]
ClientVolumes = Annotated[
    list[str] | None, typer.Option("--volume", metavar="V", help="A volume of the client; '*' is all of them.")
]
RoleName = Annotated[
    str | None,
    typer.Option(
        "--role", metavar="ROLE", help="source (default): adds; reader; maintainer: deletes, too; admin: everything."
    ),
]
Days = Annotated[int, typer.Option("--days", metavar="N", help="Days until the certificate expires.", min=1)]
Csr = Annotated[
    Path | None, typer.Option("--csr", metavar="FILE", help="Sign the key of this request rather than making one.")
]
To = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Directory of the client's bundle.")]


class Enroll(Group):
    """The group of these commands. Without the name of one it is `new`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["new", *args]
        return super().parse_args(ctx, args)


enroll = group("enroll", "Certificates. 'hrl enroll PKI ...' is 'hrl enroll new PKI ...'.", cls=Enroll)


@enroll.command("new")
def new(
    pki: Pki,
    host: Hosts = None,
    client: Client = None,
    volume: ClientVolumes = None,
    role: RoleName = None,
    days: Days = DAYS,
    csr: Csr = None,
    to: To = None,
) -> None:
    """Makes a gateway's certificate authority (--host), or a client's certificate for some volumes (--client)."""
    if host and not client:
        create_authority(pki, host)
    elif client and volume and to and not host:
        enroll_client(pki, client, volumes=volume, bundle=to, role=role or "source", days=days, request=csr)  # type: ignore[arg-type]
    else:
        raise Refused("give --host NAME, or --client NAME with --volume V and --to DIR", Exit.INVALID_INPUT)


@enroll.command("renew")
def renew(
    pki: Pki,
    host: Hosts = None,
    client: Client = None,
    volume: ClientVolumes = None,
    role: RoleName = None,
    days: Days = DAYS,
    csr: Csr = None,
    to: To = None,
) -> None:
    """Makes a new certificate for the gateway (--host), or for a client in its bundle (--client). Nothing is restarted.

    A client keeps its role and its volumes unless others are given. Its certificate before stays valid until it expires.
    """
    if host and not client:
        renew_server(pki, host, days=days)
    elif client and to and not host:
        renew_client(pki, client, bundle=to, volumes=volume, role=role, days=days, request=csr)  # type: ignore[arg-type]
    else:
        raise Refused("give --host NAME, or --client NAME with --to DIR", Exit.INVALID_INPUT)


@enroll.command("request")
def request(
    client: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="New directory for the client's bundle.")],
) -> None:
    """Makes a key that never leaves this machine, and request.pem for --csr."""
    request_client(client, to)


@enroll.command("revoke")
def revoke(
    pki: Pki,
    client: Annotated[str, typer.Option("--client", metavar="NAME", help="Name of the client.")],
    vault: Annotated[
        str | None, typer.Option("--vault", metavar="URL|DIR", help="Revoke at all gateways of this vault, too.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for people.")] = "",
    json: Json = False,
) -> None:
    """Revokes all certificates of a client, for ever. Gateways end its connections within 10 seconds."""
    opened = open_vault(vault, None) if vault is not None else None
    fingerprints = revoke_client(pki, client, vault=opened, reason=reason)
    if json:
        print_json({"client": client, "revoked": fingerprints})
    else:
        say(f"revoked: {', '.join(fingerprints) or 'nothing'}")
