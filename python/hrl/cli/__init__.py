"""The command `hrl`."""

from hrl.cli import demo_command, gateway, keys, mirror, protect, retention, sizing, vault  # noqa: F401  (they register their commands)
from hrl.cli.base import main

__all__ = ["main"]
