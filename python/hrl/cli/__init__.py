"""The command `hrl`."""

from hrl.cli import (  # noqa: F401  (they register their commands)
    demo_command,
    gateway,
    group,
    mirror,
    protect,
    report,
    retention,
    sealing,
    sizing,
    vault,
    verify,
)
from hrl.cli.base import app, main
from hrl.cli.key_options import add_key_options

add_key_options(app)

__all__ = ["main"]
