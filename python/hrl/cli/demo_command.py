"""The command `hrl demo`."""

from pathlib import Path
from typing import Annotated

import typer

from hrl.cli.base import Json, app


@app.command()
def demo(
    json: Json = False,
    size: Annotated[int, typer.Option("--size", metavar="MIB", help="Size of the disk.")] = 256,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Work in this directory and keep it.")] = None,
) -> None:
    """Protects a real file system under load, kills the agent mid-write, and proves every recovery point."""
    from hrl.cli.demo import run

    raise typer.Exit(run(json=json, size_mib=size, keep=keep))
