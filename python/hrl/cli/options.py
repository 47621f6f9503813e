"""Arguments and options that several commands share."""

import getpass
import os
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import Key, Vault
from hrl.cli.exits import Exit, Refused
from hrl.cli.key_options import KeyFile as KeyFile
from hrl.cli.key_options import NewKeyFile as NewKeyFile
from hrl.cli.output import note
from hrl.cli.times import Duration, time_option
from hrl.words import clean

VaultUrl = Annotated[str, typer.Argument(metavar="VAULT", help="Directory or URL of the vault.")]
Volume = Annotated[str, typer.Argument(metavar="VOLUME", help="Name of the volume in the vault.")]
Volumes = Annotated[list[str] | None, typer.Argument(metavar="[VOLUME]...", help="Names of volumes. Default: all.")]
VolumeName = Annotated[str | None, typer.Option("--volume", metavar="NAME", help="Name of the volume in the vault.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]
StateDirectory = Annotated[Path, typer.Argument(metavar="STATE", help="State directory of the agent.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="TOML file with policy values.")]
At = Annotated[
    str,
    typer.Option(
        "--at", metavar="POINT|TIME", help="newest, newest-good, a label, a point's id, a sequence, a time, or '10m ago'."
    ),
]
Limit = Annotated[Duration, typer.Option("--limit", metavar="TIME", parser=Duration, help="Give up after this time.")]
Nbd = Annotated[
    str | None,
    typer.Option("--nbd", metavar="ADDR", help="unix:PATH or tcp:HOST:PORT. Default: nbd.sock in the state directory."),
]
NbdTls = Annotated[
    Path | None,
    typer.Option(
        "--nbd-tls", metavar="PKI", help="Serve in TLS only, with the certificates of this directory (hrl enroll)."
    ),
]
NbdTlsAnyone = Annotated[bool, typer.Option("--nbd-tls-anyone", help="Let clients in without a certificate, too.")]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Serve without TLS even where other machines reach it: they read and write the disk."),
]
MetricsAddress = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics and /healthz there, without TLS."),
]


def time_of(name: str, help: str) -> Any:
    """Makes an option that takes a time."""
    return typer.Option(name, metavar="TIME", help=help, parser=time_option)


def duration_of(name: str, help: str) -> Any:
    """Makes an option that takes a duration."""
    return typer.Option(name, metavar="TIME", help=help, parser=Duration)


def who(act: str) -> str:
    """Returns who runs this command, for the audit log."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} (hrl {act})"


def open_vault(
    url: str, key: Key | None, *, create: bool = False, state: Path | None = None, changes: str | None = None
) -> Vault:
    """Opens the vault that a command names, for the agent of the directory `state` if that is given.

    `changes` is the name of a command that deletes: the vault's audit log says so.
    """
    if "://" in url and clean(url) != url:
        raise Refused(f"the URL {url} has a line break, or another character that no URL has", Exit.INVALID_INPUT)
    return Vault(url, key=key, create=create, state=state, recorded_as=changes and who(changes))


def tls_options(pki: Path | None, anyone: bool, insecure: bool) -> dict[str, Any]:
    """Returns the arguments of an NBD server about TLS. Each client that is refused is logged to standard error."""
    return {"tls": pki, "tls_verify": not anyone, "on_refused": note, "insecure": insecure}
