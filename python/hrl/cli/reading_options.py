"""How a command reads volumes: `--no-memory`, `--accept-rollback` and `--expect-at-least`.

A command has a parameter of the type `Reading` (or `ExpectingReading`, for the third option) and receives the options that
were given. `memory` compares and remembers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hrl.cli.option_groups import OptionGroup

if TYPE_CHECKING:
    from hrl import Key
    from hrl.cli.memory import Reader


class ReadingParameter(OptionGroup):
    """Marks the parameter that becomes the options."""

    def __init__(self, *, expects: bool) -> None:
        self.expects = expects

    def options(self, name: str) -> dict[str, tuple[Any, Any]]:
        no_memory = typer.Option("--no-memory", help="Do not compare with what was seen before, nor remember.")
        accept = typer.Option("--accept-rollback", help="Take a volume that went back as it is, and remember that.")
        expect = typer.Option(
            "--expect-at-least",
            metavar="POINT|VERSION|TIME",
            help="End with 21 unless the volume has this point, or catalog version (v12), or something as new as this time.",
        )
        found: dict[str, tuple[Any, Any]] = {
            "no_memory": (Annotated[bool, no_memory], False),
            "accept_rollback": (Annotated[bool, accept], False),
        }
        return found | ({"expect_at_least": (Annotated[str | None, expect], None)} if self.expects else {})

    def value(self, given: dict[str, Any]) -> "ReadingOptions":
        return ReadingOptions(**given)


@dataclass(frozen=True)
class ReadingOptions:
    """How a command reads volumes."""

    no_memory: bool = False
    accept_rollback: bool = False
    expect_at_least: str | None = None

    def open(self, url: str, key: "Key | None") -> "Reader":
        """Opens a vault to read volumes of it."""
        from hrl.cli.memory import Memory, Reader
        from hrl.cli.options import open_vault

        memory = None if self.no_memory else Memory(url)
        return Reader(open_vault(url, key), memory, self)


Reading = Annotated[ReadingOptions, ReadingParameter(expects=False)]
ExpectingReading = Annotated[ReadingOptions, ReadingParameter(expects=True)]
DEFAULT = ReadingOptions()
