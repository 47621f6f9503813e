"""The command `hrl`."""

import typer

from hrl.cli import (  # noqa: F401  (they register their commands)
    demo_command,
    failback,
    failover,
    gateway,
    group,
    health,
    mirror,
    plan,
    protect,
    report,
    retention,
    sealing,
    sizing,
    vault,
    verify,
)
from hrl.cli.base import app, main
from hrl.cli.event_options import with_event_options
from hrl.cli.key_options import with_key_options


def add_options(commands: typer.Typer) -> None:
    """Gives every command, those of groups too, the options that its parameters stand for."""
    for registered in commands.registered_commands:
        if registered.callback is not None:
            registered.callback = with_key_options(with_event_options(registered.callback))
    for group_of_commands in commands.registered_groups:
        if group_of_commands.typer_instance is not None:
            add_options(group_of_commands.typer_instance)


add_options(app)

__all__ = ["main"]
