"""The command `hrl`."""

from hrl.cli import (  # noqa: F401  (they register their commands)
    demo_command,
    gateway,
    group,
    health,
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
from hrl.cli.event_options import add_event_options
from hrl.cli.key_options import add_key_options

add_event_options(app)
add_key_options(app)

__all__ = ["main"]
