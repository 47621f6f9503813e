"""The command `hrl demo`."""

from pathlib import Path
from typing import Annotated

import typer

from hrl.cli.commands import command
from hrl.cli.options import Json


@command("demo")
def demo(
    json: Json = False,
    size: Annotated[int, typer.Option("--size", metavar="MIB", min=64, help="Size of the disk in MiB.")] = 256,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Work in this directory, and keep it.")] = None,
) -> None:
    """Protects a real file system under load, kills the agent mid-write, and proves every recovery point."""
    from hrl.cli.demo import run

    raise typer.Exit(run(json=json, size_mib=size, keep=keep))
