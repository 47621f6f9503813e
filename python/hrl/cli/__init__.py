"""The command `hrl`."""

from hrl.cli import demo_command, gateway, keys, mirror, protect, retention, sizing, vault  # noqa: F401  (they register their commands)
from hrl.cli.base import app, main
from hrl.cli.key_options import add_key_options

add_key_options(app)

__all__ = ["main"]
